import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;

/**
 * The fields of an event that the gate looks at. One object for all events, read anew for each: streaming, without a
 * tree, and everything else is skipped.
 */
final class Event {
    private static final JsonFactory JSON = new JsonFactory();

    String type;
    String taskId;
    String causeTaskId;
    String outcome;
    boolean annotateWhenStale;

    /** Facets of {@code set}, {@code unset}, {@code snapshot} or {@code reads}, and their values; null for absent. */
    final Facets facets = new Facets();

    /** Where in the event's bytes the array of parts begins and ends. */
    int partsFrom;

    int partsTo;

    void read(byte[] bytes) throws IOException {
        type = taskId = causeTaskId = outcome = null;
        annotateWhenStale = false;
        partsFrom = partsTo = 0;
        facets.clear();
        try (JsonParser json = JSON.createParser(bytes)) {
            json.nextToken();
            for (String name = json.nextFieldName(); name != null; name = json.nextFieldName()) {
                JsonToken token = json.nextToken();
                switch (name) {
                    case "type" -> type = json.getText();
                    case "task_id" -> taskId = json.getText();
                    case "outcome" -> outcome = json.getText();
                    case "on_stale" -> annotateWhenStale = json.getText().equals("annotate");
                    case "set", "snapshot", "reads" -> readFacets(json);
                    case "unset" -> readUnset(json);
                    case "cause" -> causeTaskId = readCause(json);
                    case "parts" -> {
                        partsFrom = (int) json.currentTokenLocation().getByteOffset();
                        json.skipChildren();
                        partsTo = (int) json.currentLocation().getByteOffset();
                    }
                    default -> {
                        if (token.isStructStart()) {
                            json.skipChildren();
                        }
                    }
                }
            }
        }
    }

    private void readFacets(JsonParser json) throws IOException {
        for (String name = json.nextFieldName(); name != null; name = json.nextFieldName()) {
            facets.set(name, json.nextTextValue());
        }
    }

    private void readUnset(JsonParser json) throws IOException {
        for (String name = json.nextTextValue(); name != null; name = json.nextTextValue()) {
            facets.set(name, null);
        }
    }

    private static String readCause(JsonParser json) throws IOException {
        String taskId = null;
        for (String name = json.nextFieldName(); name != null; name = json.nextFieldName()) {
            JsonToken token = json.nextToken();
            if (name.equals("task_id")) {
                taskId = json.getText();
            } else if (token.isStructStart()) {
                json.skipChildren();
            }
        }
        return taskId;
    }
}
