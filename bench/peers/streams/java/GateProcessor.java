import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Folds context and steps into a session, and judges results against it, in the order of their timestamps.
 *
 * <p>Sessions are also kept here, decoded: the store is read once for each after a restore, and written at every
 * change.
 */
final class GateProcessor implements Processor<String, byte[], String, byte[]> {
    static final String STORE = "sessions";

    private final Event event = new Event();
    private final Verdict verdict = new Verdict();
    private final Map<String, Session> sessions = new HashMap<>();
    private ProcessorContext<String, byte[]> context;
    private KeyValueStore<String, Session> store;

    @Override
    public void init(ProcessorContext<String, byte[]> context) {
        this.context = context;
        store = context.getStateStore(STORE);
        sessions.clear(); // after a transaction that failed, only what the store restored counts
    }

    @Override
    public void process(Record<String, byte[]> record) {
        try {
            event.read(record.value());
            String sessionId = record.key();
            Session session = session(sessionId);
            boolean changed =
                    switch (event.type) {
                        case "context.changed" -> session.change(event);
                        case "task.dispatched" -> session.dispatch(event);
                        case "task.step" -> session.step(event);
                        case "task.result" -> judge(record, session);
                        default -> false;
                    };
            if (changed) {
                store.put(sessionId, session);
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private Session session(String sessionId) {
        Session session = sessions.get(sessionId);
        if (session == null) {
            session = store.get(sessionId);
            if (session == null) {
                session = new Session();
            }
            sessions.put(sessionId, session);
        }
        return session;
    }

    /** Forwards the verdict. A task ends with its result; false where there was none. */
    private boolean judge(Record<String, byte[]> result, Session session) throws IOException {
        Session.Task task = session.tasks.remove(event.taskId);
        context.forward(result.withValue(verdict.of(result.key(), session, task, event, result.value())));
        return task != null;
    }
}
