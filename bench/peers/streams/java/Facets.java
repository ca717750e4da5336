import java.util.Arrays;
import java.util.Objects;

/**
 * Facets and their values; a value may be null. Arrays, looked through from the beginning: a session has about ten, and
 * their names are mostly the same objects, because the parser interns them.
 */
final class Facets {
    static final int UNSEEN = -1;

    private String[] names = new String[4];
    private String[] values = new String[4];
    private int size;

    int size() {
        return size;
    }

    String name(int place) {
        return names[place];
    }

    String value(int place) {
        return values[place];
    }

    /** Where the facet is, or {@link #UNSEEN}. */
    int find(String name) {
        for (int place = 0; place < size; place++) {
            if (names[place].equals(name)) {
                return place;
            }
        }
        return UNSEEN;
    }

    boolean has(int place, String value) {
        return Objects.equals(values[place], value);
    }

    /** Sets a facet that was found at {@code place}, or adds it where it is unseen. */
    void set(int place, String name, String value) {
        if (place != UNSEEN) {
            values[place] = value;
            return;
        }
        if (size == names.length) {
            names = Arrays.copyOf(names, 2 * size);
            values = Arrays.copyOf(values, 2 * size);
        }
        names[size] = name;
        values[size++] = value;
    }

    void set(String name, String value) {
        set(find(name), name, value);
    }

    void setAll(Facets others) {
        for (int place = 0; place < others.size; place++) {
            set(others.names[place], others.values[place]);
        }
    }

    void clear() {
        size = 0;
    }
}
