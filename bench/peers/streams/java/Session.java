import java.util.HashMap;
import java.util.Map;

/** What is known of one session: its facets, null for one that was unset, and its open tasks. */
final class Session {
    final Facets facets = new Facets();
    final Map<String, Task> tasks = new HashMap<>(4);

    /** A dispatched task: the facets that it depends on, with the values it expects. */
    static final class Task {
        final boolean annotateWhenStale;
        final Facets expected = new Facets();

        Task(boolean annotateWhenStale) {
            this.annotateWhenStale = annotateWhenStale;
        }
    }

    /** Takes over a context event. False where it changes nothing. */
    boolean change(Event event) {
        Task cause = event.causeTaskId == null ? null : tasks.get(event.causeTaskId);
        boolean changed = false;
        for (int i = 0; i < event.facets.size(); i++) {
            String facet = event.facets.name(i);
            String value = event.facets.value(i);
            int place = facets.find(facet);
            if (place != Facets.UNSEEN && facets.has(place, value)) {
                continue;
            }
            if (cause != null) {
                moveAlong(cause.expected, facet, place, value);
            }
            facets.set(place, facet, value);
            changed = true;
        }
        return changed;
    }

    /** A task's own change: where what it expects was there just before, it expects the new value. */
    private void moveAlong(Facets expected, String facet, int place, String value) {
        int own = expected.find(facet);
        if (own != Facets.UNSEEN && (place == Facets.UNSEEN || expected.has(own, facets.value(place)))) {
            expected.set(own, facet, value);
        }
    }

    /** Opens a task. False where it is open already. */
    boolean dispatch(Event event) {
        if (tasks.containsKey(event.taskId)) {
            return false;
        }
        Task task = new Task(event.annotateWhenStale);
        task.expected.setAll(event.facets);
        tasks.put(event.taskId, task);
        return true;
    }

    /** What a step read joins what its task expects, or replaces it. False where it read nothing. */
    boolean step(Event event) {
        Task task = event.facets.size() == 0 ? null : tasks.get(event.taskId);
        if (task == null) {
            return false;
        }
        task.expected.setAll(event.facets);
        return true;
    }

    /** Whether a facet that the task expects is known to have another value. One never seen contradicts nothing. */
    boolean differs(Task task, int place) {
        int known = facets.find(task.expected.name(place));
        return known != Facets.UNSEEN && !facets.has(known, task.expected.value(place));
    }
}
