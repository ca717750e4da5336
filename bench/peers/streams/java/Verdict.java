import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;

/** Judges a result, and writes what is decided as JSON. */
final class Verdict {
    private static final JsonFactory JSON = new JsonFactory();

    private final ByteArrayOutputStream bytes = new ByteArrayOutputStream(1024);

    /** The verdict on a result of {@code task}, null if it is not known; {@code value} is the result's bytes. */
    byte[] of(String sessionId, Session session, Session.Task task, Event result, byte[] value) throws IOException {
        if (task != null) {
            task.expected.setAll(result.facets);
        }
        boolean stale = task != null && isStale(session, task);
        boolean annotated = stale && (task.annotateWhenStale || "failed".equals(result.outcome));
        bytes.reset();
        try (JsonGenerator json = JSON.createGenerator(bytes)) {
            json.writeStartObject();
            json.writeStringField("session_id", sessionId);
            json.writeStringField("task_id", result.taskId);
            json.writeStringField("decision", task == null || stale && !annotated ? "withheld" : "delivered");
            json.writeBooleanField("annotated", annotated);
            json.writeStringField("reason", task == null ? "unknown_task" : stale ? "stale" : "fresh");
            if (stale) {
                writeDifferences(json, session, task);
            }
            if (result.partsTo > 0) {
                json.writeFieldName("parts");
                int length = result.partsTo - result.partsFrom;
                json.writeRawValue(new String(value, result.partsFrom, length, StandardCharsets.UTF_8));
            }
            json.writeEndObject();
        }
        return bytes.toByteArray();
    }

    private static boolean isStale(Session session, Session.Task task) {
        for (int place = 0; place < task.expected.size(); place++) {
            if (session.differs(task, place)) {
                return true;
            }
        }
        return false;
    }

    private static void writeDifferences(JsonGenerator json, Session session, Session.Task task) throws IOException {
        json.writeArrayFieldStart("differences");
        for (int place = 0; place < task.expected.size(); place++) {
            if (session.differs(task, place)) {
                String facet = task.expected.name(place);
                json.writeStartObject();
                json.writeStringField("facet", facet);
                json.writeStringField("expected", task.expected.value(place));
                json.writeStringField("actual", session.facets.value(session.facets.find(facet)));
                json.writeEndObject();
            }
        }
        json.writeEndArray();
    }
}
