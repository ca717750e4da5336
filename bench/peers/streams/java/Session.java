import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;

/** What is known of one session: its facets, null for one that was unset, and its open tasks. */
final class Session {
    final Map<String, String> facets = new HashMap<>();
    final Map<String, Task> tasks = new HashMap<>(4);

    /** A dispatched task: the facets that it depends on, with the values it expects. */
    static final class Task {
        final boolean annotateWhenStale;
        final Map<String, String> expected = new LinkedHashMap<>();

        Task(boolean annotateWhenStale) {
            this.annotateWhenStale = annotateWhenStale;
        }
    }

    /** Takes over a context event. False where it changes nothing. */
    boolean change(Event event) {
        Task cause = event.causeTaskId == null ? null : tasks.get(event.causeTaskId);
        boolean changed = false;
        for (int i = 0; i < event.facets.size(); i++) {
            String facet = event.facets.get(i);
            String value = event.values.get(i);
            boolean known = facets.containsKey(facet);
            String before = facets.get(facet);
            if (known && Objects.equals(before, value)) {
                continue;
            }
            changed = true;
            facets.put(facet, value);
            // its own change: what matched just before moves along
            if (cause != null
                    && cause.expected.containsKey(facet)
                    && (!known || Objects.equals(before, cause.expected.get(facet)))) {
                cause.expected.put(facet, value);
            }
        }
        return changed;
    }

    /** Opens a task. False where it is open already. */
    boolean dispatch(Event event) {
        if (tasks.containsKey(event.taskId)) {
            return false;
        }
        Task task = new Task(event.annotateWhenStale);
        expect(task, event);
        tasks.put(event.taskId, task);
        return true;
    }

    /** What a step read joins what its task expects, or replaces it. False where that changes nothing. */
    boolean step(Event event) {
        Task task = event.facets.isEmpty() ? null : tasks.get(event.taskId);
        return task != null && expect(task, event);
    }

    /** Adds facets of a snapshot or of reads to what the task expects. */
    static boolean expect(Task task, Event event) {
        for (int i = 0; i < event.facets.size(); i++) {
            task.expected.put(event.facets.get(i), event.values.get(i));
        }
        return true;
    }

    /** Whether a facet is known to have another value than the one expected. A facet never seen contradicts nothing. */
    boolean differs(String facet, String expected) {
        String known = facets.get(facet);
        return known == null ? expected != null && facets.containsKey(facet) : !known.equals(expected);
    }
}
