// A block of a launch, in the thread of the host that runs it.

#pragma once

#include <atomic>
#include <csetjmp>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "runtime.h"

namespace emulator {

enum class Order : uint32_t { Ascending = 0, Descending = 1, Shuffled = 2 };

// As in ffi.rs.
struct Settings {
    uint64_t seed;
    Order order;
    // Whether asynchronous copies and products happen when they are waited for.
    uint32_t late;
    // Threads of the host.
    uint32_t threads;
    uint32_t padding;
};

struct Allocation {
    uint8_t* begin;
    size_t bytes;
};

struct Device {
    Settings settings;
    // Ordered by address.
    std::vector<Allocation> allocations;

    const Allocation* holding(const void* at, size_t bytes) const;
};

struct Job {
    const Kernel* kernel;
    const uint8_t* params;
    uint32_t grid[3];
    uint32_t shared_bytes;
    const Device* device;
    uint64_t total;
    // Step from a block to the next in a shuffled order.
    uint64_t stride;

    std::atomic<uint64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::string message;
    // Guarded by the pool.
    uint32_t wanted = 0;
    uint32_t helping = 0;
};

// The reason why a fiber does not run.
enum class Wait : uint8_t { Nothing, Warp, Block, Named, Mbarrier };

// An entry of a thread's queue of copies, in the order of the calls.
struct Copy {
    enum Kind : uint8_t { Bytes, Commit, Arrive } kind;
    uint8_t bytes;
    uint32_t to;
    const void* from;
};

struct Fiber {
    void* top;
    uint32_t index;
    Wait wait;
    const char* name;
    Site site;
    uint32_t mask;
    const WarpOp* op;
    void* brought;
    uint32_t id;
    uint32_t parity;
    std::vector<Copy> copies;
    // Copies and products that wgmma may read are those before.
    uint32_t fenced_at;
    bool wgmma_fenced;
};

// A product under way, or the end of a group of them.
struct Product {
    bool commit;
    bool bf16;
    bool accumulate;
    uint32_t columns;
    uint64_t a;
    uint64_t b;
    float* d[32];
};

struct Warp {
    // Lanes there are; those that have not returned, have not begun, can run, let others run first,
    // wait for lanes, wait at an mbarrier.
    uint32_t exists, live, fresh, runnable, passed, meeting, at_mbarrier;
    std::vector<Product> products;
};

struct Barrier {
    uint32_t arrived;
    uint32_t threads;
    uint32_t counted;
    uint32_t result;
    const char* name;
    Site site;
    uint32_t waiting[32];
};

struct TensorCopy {
    uint32_t to;
    const void* map;
    int32_t x, y;
    uint32_t barrier;
};

// The thread that wrote 16 bytes of shared memory by cp.async, and when.
struct Written {
    uint32_t at;
    uint32_t thread;
};

constexpr uint32_t MOST_THREADS = 1024;
constexpr uint32_t MOST_SHARED = 232448;
// Where dynamic shared memory begins: the system has the first KiB.
constexpr uint32_t SHARED_BASE = 1024;

struct Worker {
    Job* job = nullptr;
    const Settings* settings = nullptr;
    uint32_t threads = 0;
    uint32_t warp_count = 0;
    uint32_t live = 0;
    uint64_t random = 0;

    void* scheduler = nullptr;
    Fiber* current = nullptr;
    // Where an error or a signal within a block jumps to.
    sigjmp_buf escape;
    bool clean = false;

    Fiber fibers[MOST_THREADS];
    Warp warps[MOST_THREADS / 32];
    Barrier barriers[16];

    uint8_t* shared = nullptr;
    std::vector<uint8_t*> stacks;
    std::vector<uint8_t*> free_stacks;
    // The stack of the thread that is about to begin.
    uint8_t* taken_stack = nullptr;
    // Lanes of the current warp that run before its runnable lanes are computed again, and their order.
    uint32_t todo = 0;
    uint32_t first_lane = 0;
    bool downwards = false;
    bool any_passed = false;

    // Whether threads have copies in their queues, or fenced.
    bool any_copies = false;
    bool any_fences = false;
    uint32_t clock = 0;
    std::vector<Written> written;
    std::vector<TensorCopy> tensor_copies;
    // Tensor maps, and the threads that have acquired them.
    std::vector<std::pair<const void*, const Fiber*>> acquired;
    bool init_fenced = false;
    const Allocation* last_allocation = nullptr;

    Worker();
    Worker(const Worker&) = delete;

    bool run(Job& job, uint64_t number);
    uint8_t* shared_at(uint32_t address) { return shared + (address - SHARED_BASE); }
    Warp& warp_of(const Fiber& fiber) { return warps[fiber.index / 32]; }

private:
    friend struct Scheduler;
};

extern __thread Worker* worker;

// Lets the running fiber wait until it is made runnable.
void suspend(Worker& w);
// Does the copies that are due only when no thread can continue without them; whether there were any.
bool copy_what_is_waited_for(Worker& w);
// What must not be under way when a block ends; null if nothing is.
const char* left_under_way(Worker& w);
// Forgets the copies of the last block.
void reset_copies(Worker& w);
// Notes an error, of the running thread if there is one.
void note_failure(Worker& w, const char* text);

}  // namespace emulator
