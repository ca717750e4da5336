import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Map;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/**
 * A session as bytes, as the store and its changelog keep it: counts and strings, each with its length before it, -1
 * for null.
 */
final class SessionSerde {
    private byte[] bytes = new byte[4096];
    private int size;

    private SessionSerde() {}

    static Serde<Session> serde() {
        SessionSerde writer = new SessionSerde();
        return Serdes.serdeFrom(
                (topic, session) -> session == null ? null : writer.write(session),
                (topic, bytes) -> bytes == null ? null : read(ByteBuffer.wrap(bytes)));
    }

    private byte[] write(Session session) {
        size = 0;
        writeFacets(session.facets);
        writeShort(session.tasks.size());
        for (Map.Entry<String, Session.Task> task : session.tasks.entrySet()) {
            writeString(task.getKey());
            writeShort(task.getValue().annotateWhenStale ? 1 : 0);
            writeFacets(task.getValue().expected);
        }
        return Arrays.copyOf(bytes, size);
    }

    private void writeFacets(Facets facets) {
        writeShort(facets.size());
        for (int place = 0; place < facets.size(); place++) {
            writeString(facets.name(place));
            writeString(facets.value(place));
        }
    }

    private void writeString(String text) {
        if (text == null) {
            writeShort(-1);
            return;
        }
        byte[] encoded = text.getBytes(StandardCharsets.UTF_8);
        writeShort(encoded.length);
        makeRoom(encoded.length);
        System.arraycopy(encoded, 0, bytes, size, encoded.length);
        size += encoded.length;
    }

    private void writeShort(int number) {
        makeRoom(2);
        bytes[size++] = (byte) (number >> 8);
        bytes[size++] = (byte) number;
    }

    private void makeRoom(int more) {
        if (size + more > bytes.length) {
            bytes = Arrays.copyOf(bytes, 2 * (size + more));
        }
    }

    private static Session read(ByteBuffer from) {
        Session session = new Session();
        readFacets(from, session.facets);
        for (int left = from.getShort(); left > 0; left--) {
            String taskId = readString(from);
            Session.Task task = new Session.Task(from.getShort() == 1);
            readFacets(from, task.expected);
            session.tasks.put(taskId, task);
        }
        return session;
    }

    private static void readFacets(ByteBuffer from, Facets facets) {
        for (int left = from.getShort(); left > 0; left--) {
            facets.set(readString(from), readString(from));
        }
    }

    private static String readString(ByteBuffer from) {
        int length = from.getShort();
        if (length < 0) {
            return null;
        }
        String text = new String(from.array(), from.position(), length, StandardCharsets.UTF_8);
        from.position(from.position() + length);
        return text;
    }
}
