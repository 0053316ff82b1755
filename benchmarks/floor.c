/* What C alone needs for the bytes of a batch: no checks, no random numbers, no weights, no allocation.
 *
 * Records are 48 bytes. The sum tree has eight children a node, a node is one 64-byte line of doubles; level 0 holds
 * the children of the root, the last level the leaves, each level padded with zeros to whole lines. Every function
 * runs `calls` batches in a row, each with its own random numbers, so that the caller's overhead vanishes.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

enum { LANES = 4096, BRANCHES = 8, AHEAD = 16 };

typedef struct {
    float obs[4];
    int64_t action;
    float reward;
    float next_obs[4];
    uint8_t terminated;
    uint8_t truncated;
} record;

typedef struct {
    float (*obs)[4];
    int64_t *action;
    float *reward;
    float (*next_obs)[4];
    uint8_t *terminated;
    uint8_t *truncated;
} columns;

typedef struct {
    double *values;
    const int64_t *offsets; /* of each level in values */
    int64_t depth;
} tree;

int64_t floor_record_size(void) { return sizeof(record); }

static inline void ask_for(const record *row) {
    __builtin_prefetch(row);
    __builtin_prefetch((const char *)(row + 1) - 1); /* a record may lie on two lines */
}

static void read_batch(const record *rows, const int64_t *slots, int64_t size, columns out) {
    for (int64_t lane = 0; lane < size; ++lane) {
        const record *row = rows + slots[lane];
        if (lane + AHEAD < size) ask_for(rows + slots[lane + AHEAD]);
        memcpy(out.obs[lane], row->obs, sizeof row->obs);
        out.action[lane] = row->action;
        out.reward[lane] = row->reward;
        memcpy(out.next_obs[lane], row->next_obs, sizeof row->next_obs);
        out.terminated[lane] = row->terminated;
        out.truncated[lane] = row->truncated;
    }
}

/* All lanes go down one level, then all the next: while one waits for memory the others work. */
static void walk_batch(tree sums, const double *uniforms, int64_t size, int64_t *slots, const record *rows) {
    static double left[LANES];
    double total = 0.0;
    for (int child = 0; child < BRANCHES; ++child) total += sums.values[child];
    for (int64_t lane = 0; lane < size; ++lane) {
        left[lane] = (lane + uniforms[lane]) * total / size;
        slots[lane] = 0;
    }
    for (int64_t level = 0; level < sums.depth; ++level) {
        const double *here = sums.values + sums.offsets[level];
        const double *below = level + 1 < sums.depth ? sums.values + sums.offsets[level + 1] : 0;
        for (int64_t lane = 0; lane < size; ++lane) {
            const double *node = here + slots[lane] * BRANCHES;
            const double target = left[lane];
            double before[BRANCHES];
            before[0] = 0.0;
            int64_t child = 0;
            for (int branch = 1; branch < BRANCHES; ++branch) {
                before[branch] = before[branch - 1] + node[branch - 1];
                child += target >= before[branch];
            }
            left[lane] = target - before[child];
            slots[lane] = slots[lane] * BRANCHES + child;
            if (below) {
                __builtin_prefetch(below + slots[lane] * BRANCHES);
            } else if (rows) {
                ask_for(rows + slots[lane]);
            }
        }
    }
}

void floor_read(const record *rows, const int64_t *slots, int64_t size, int64_t calls, columns out) {
    for (int64_t call = 0; call < calls; ++call) read_batch(rows, slots + call * size, size, out);
}

void floor_walk(tree sums, const double *uniforms, int64_t size, int64_t calls, int64_t *slots) {
    for (int64_t call = 0; call < calls; ++call) walk_batch(sums, uniforms + call * size, size, slots, 0);
}

void floor_walk_and_read(tree sums, const record *rows, const double *uniforms, int64_t size, int64_t calls,
                         int64_t *slots, columns out) {
    for (int64_t call = 0; call < calls; ++call) {
        walk_batch(sums, uniforms + call * size, size, slots, rows);
        read_batch(rows, slots, size, out);
    }
}

/* Sums are added up again from the children, level by level; lanes that share a parent do it twice. */
static void update_batch(tree sums, const int64_t *slots, const double *priorities, int64_t size) {
    static uint64_t nodes[LANES];
    double *leaves = sums.values + sums.offsets[sums.depth - 1];
    for (int64_t lane = 0; lane < size; ++lane) {
        nodes[lane] = (uint64_t)slots[lane];
        leaves[slots[lane]] = priorities[lane];
    }
    for (int64_t level = sums.depth - 1; level > 0; --level) {
        const double *here = sums.values + sums.offsets[level];
        double *above = sums.values + sums.offsets[level - 1];
        for (int64_t lane = 0; lane < size; ++lane) {
            nodes[lane] /= BRANCHES;
            const double *node = here + nodes[lane] * BRANCHES;
            above[nodes[lane]] = ((node[0] + node[1]) + (node[2] + node[3])) + ((node[4] + node[5]) + (node[6] + node[7]));
        }
    }
}

void floor_update(tree sums, const int64_t *slots, const double *priorities, int64_t size, int64_t calls) {
    for (int64_t call = 0; call < calls; ++call) update_batch(sums, slots + call * size, priorities + call * size, size);
}

/* Into the places after *next, going round. */
static int64_t add_record(record *rows, int64_t capacity, int64_t *next, const record *added) {
    const int64_t slot = *next;
    rows[slot] = *added;
    *next = slot + 1 < capacity ? slot + 1 : 0;
    return slot;
}

void floor_add(record *rows, int64_t capacity, int64_t *next, const record *added, int64_t count) {
    for (int64_t each = 0; each < count; ++each) add_record(rows, capacity, next, added + each);
}

/* Four records with the priority of newcomers, a batch, and an update of what the batch found. */
void floor_step(tree sums, record *rows, int64_t capacity, int64_t *next, const record *added, double newcomer,
                const double *uniforms, const double *priorities, int64_t size, int64_t calls, int64_t *slots,
                columns out) {
    const double newcomers[4] = {newcomer, newcomer, newcomer, newcomer};
    for (int64_t call = 0; call < calls; ++call) {
        int64_t places[4];
        for (int each = 0; each < 4; ++each) places[each] = add_record(rows, capacity, next, added + 4 * call + each);
        update_batch(sums, places, newcomers, 4);
        walk_batch(sums, uniforms + call * size, size, slots, rows);
        read_batch(rows, slots, size, out);
        update_batch(sums, slots, priorities + call * size, size);
    }
}

/* A pick is a run of bytes from the beginning of a frame on; `out` holds a batch, or is null: then each batch goes to
 * memory that is fresh from the system, as a block that was just allocated is. Gives 0, or -1 where there is none. */
int floor_frames(const uint8_t *frames, int64_t frame_bytes, int64_t pick_bytes, const int64_t *picks, int64_t size,
                 int64_t calls, uint8_t *out) {
    for (int64_t call = 0; call < calls; ++call, picks += size) {
        uint8_t *to = out;
        if (!out) {
            to = mmap(0, (size_t)(size * pick_bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (to == MAP_FAILED) return -1;
        }
        for (int64_t lane = 0; lane < size; ++lane)
            memcpy(to + lane * pick_bytes, frames + picks[lane] * frame_bytes, (size_t)pick_bytes);
        if (!out) munmap(to, (size_t)(size * pick_bytes));
    }
    return 0;
}
