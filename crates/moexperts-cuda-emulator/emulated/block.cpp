// Blocks: each thread is a fiber, and one runs until it has to wait.

#include "block.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "cuda.h"
#include "switch.h"

__thread uint3 threadIdx;
__thread uint3 blockIdx;
__thread dim3 blockDim;
__thread dim3 gridDim;

namespace emulator {

__thread uint32_t lane;
__thread Worker* worker;

namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t SHARED_GUARD = 1024;
// The guards before and after shared memory.
const struct Guard {
    uint8_t bytes[SHARED_GUARD];
    Guard() { memset(bytes, 0xa5, sizeof bytes); }
} guard;

uint64_t next_random(uint64_t& state) {
    // SplitMix64.
    uint64_t x = state += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

bool same(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

const char* file_name(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

uint8_t* map_stack(size_t number) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = STACK_BYTES + page;
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) fail("the host has no memory for another thread's stack");
    // Without the guard page the stack works too.
    (void)mprotect(at, page, PROT_NONE);
    // At different places of a page: at the same place, stacks would compete for the same cache lines.
    return static_cast<uint8_t*>(at) + bytes - number % 64 * 320;
}

uint8_t* take_stack(Worker& w) {
    if (w.free_stacks.empty()) {
        uint8_t* top = map_stack(w.stacks.size());
        w.stacks.push_back(top);
        return top;
    }
    uint8_t* top = w.free_stacks.back();
    w.free_stacks.pop_back();
    return top;
}

void release(Worker& w, Barrier& barrier) {
    for (uint32_t i = 0; i < w.warp_count; ++i) {
        w.warps[i].runnable |= barrier.waiting[i];
        barrier.waiting[i] = 0;
    }
    barrier.result = barrier.counted;
    barrier.arrived = barrier.counted = 0;
}

// The running thread has returned.
void finish(Worker& w) {
    w.warp_of(*w.current).live &= ~(1u << lane);
    --w.live;
    // Threads that wait for all threads wait for those that have not returned.
    if (w.barriers[0].arrived && w.barriers[0].arrived == w.live) release(w, w.barriers[0]);
}

// The next of the lanes that are to run, from some lane on, up or down.
inline uint32_t take_next(Worker& w) {
    uint32_t from = w.first_lane, turned = w.todo >> from | w.todo << (-from & 31);
    uint32_t at = w.downwards ? 31 - (uint32_t)__builtin_clz(turned) : (uint32_t)__builtin_ctz(turned);
    uint32_t next = (at + from) % 32;
    w.todo &= ~(1u << next);
    return next;
}

void fiber_main();

// Makes the thread `index` the one that runs: where to switch to. Null if it begins, where a stack
// is free for it.
inline void* enter(Worker& w, uint32_t index, bool stack_is_free) {
    Warp& warp = w.warps[index / 32];
    uint32_t bit = 1u << index % 32;
    bool begins = warp.fresh & bit;
    warp.runnable &= ~bit;
    warp.fresh &= ~bit;
    lane = index % 32;
    threadIdx.x = index;
    w.current = &w.fibers[index];
    if (!begins) return w.current->top;
    if (stack_is_free) return nullptr;
    w.taken_stack = take_stack(w);
    return new_stack(w.taken_stack, fiber_main);
}

// The stack to switch to when the running thread has to wait: another lane of its warp, or the scheduler.
void* onward(Worker& w, bool stack_is_free) {
    if (!w.todo && w.settings->order != Order::Shuffled) w.todo = w.warp_of(*w.current).runnable;
    if (!w.todo) return w.scheduler;
    return enter(w, (w.current->index & ~31u) + take_next(w), stack_is_free);
}

// Threads that begin, one after another: those that never wait share one stack.
void fiber_main() {
    Worker& w = *worker;
    uint8_t* stack = w.taken_stack;
    void* to;
    for (;;) {
        w.job->kernel->run(w.job->params);
        finish(w);
        to = onward(w, true);
        if (to) break;
    }
    w.free_stacks.push_back(stack);
    void* nowhere;
    emulator_switch(&nowhere, to);
    __builtin_unreachable();
}

// Runs the lanes of a warp that can run; whether there were any.
bool run_warp(Worker& w, uint32_t index) {
    w.todo = w.warps[index].runnable;
    if (!w.todo) return false;
    while (w.todo) {
        emulator_switch(&w.scheduler, enter(w, 32 * index + take_next(w), false));
        w.current = nullptr;
    }
    return true;
}

// Runs the threads that can run; whether there were any.
bool run_all(Worker& w) {
    if (w.any_passed) {
        for (uint32_t i = 0; i < w.warp_count; ++i) {
            w.warps[i].runnable |= w.warps[i].passed;
            w.warps[i].passed = 0;
        }
        w.any_passed = false;
    }
    bool any = false;
    if (w.settings->order != Order::Shuffled) {
        for (uint32_t i = 0; i < w.warp_count; ++i) {
            any |= run_warp(w, w.downwards ? w.warp_count - 1 - i : i);
        }
        return any;
    }
    uint8_t order[MOST_THREADS / 32];
    for (uint32_t i = 0; i < w.warp_count; ++i) {
        uint32_t other = (uint32_t)(next_random(w.random) % (i + 1));
        order[i] = order[other];
        order[other] = (uint8_t)i;
    }
    for (uint32_t i = 0; i < w.warp_count; ++i) {
        uint64_t random = next_random(w.random);
        w.first_lane = random & 31;
        w.downwards = random & 32;
        any |= run_warp(w, order[i]);
    }
    return any;
}

std::string described(const Worker& w, uint32_t index) {
    const Warp& warp = w.warps[index / 32];
    const Fiber& fiber = w.fibers[index];
    if (!(warp.live >> index % 32 & 1)) return "returned";
    char text[256];
    const char* file = file_name(fiber.site.file);
    int line = fiber.site.line;
    switch (fiber.wait) {
        case Wait::Warp:
            snprintf(text, sizeof text, "at %s of the lanes %08x (%s:%d)", fiber.name, fiber.mask,
                     file, line);
            break;
        case Wait::Named:
            snprintf(text, sizeof text, "at named_barrier %u (%s:%d)", fiber.id, file, line);
            break;
        case Wait::Mbarrier:
            snprintf(text, sizeof text, "at the mbarrier at %u, parity %u (%s:%d)", fiber.id,
                     fiber.parity, file, line);
            break;
        default: snprintf(text, sizeof text, "at %s (%s:%d)", fiber.name, file, line);
    }
    return text;
}

// The threads that wait, grouped by what they wait for.
void report_deadlock(Worker& w) {
    struct Group {
        std::string what;
        std::string threads;
        uint32_t ranges;
        uint32_t first;
        uint32_t last;
    };
    constexpr uint32_t MOST_RANGES = 4;
    std::vector<Group> groups;
    auto close = [](Group& group) {
        if (group.ranges++ >= MOST_RANGES) return;
        if (!group.threads.empty()) group.threads += ", ";
        group.threads += std::to_string(group.first);
        if (group.last > group.first) group.threads += " to " + std::to_string(group.last);
    };
    for (uint32_t i = 0; i < w.threads; ++i) {
        std::string what = described(w, i);
        size_t at = 0;
        while (at < groups.size() && groups[at].what != what) ++at;
        if (at == groups.size()) {
            groups.push_back({what, "", 0, i, i});
        } else if (groups[at].last + 1 == i) {
            groups[at].last = i;
        } else {
            close(groups[at]);
            groups[at].first = groups[at].last = i;
        }
    }
    std::string text = "no thread can go on";
    for (Group& group : groups) {
        close(group);
        text += &group == &groups[0] ? ": " : "; ";
        text += "threads " + group.threads;
        if (group.ranges > MOST_RANGES) text += " and others";
        text += " " + group.what;
    }
    note_failure(w, text.c_str());
}

void begin(Worker& w, uint64_t number) {
    const Job& job = *w.job;
    w.threads = w.live = job.kernel->threads;
    w.warp_count = (w.threads + 31) / 32;
    for (uint32_t i = 0; i < w.warp_count; ++i) {
        Warp& warp = w.warps[i];
        uint32_t lanes = w.threads - 32 * i;
        warp.exists = warp.live = warp.fresh = warp.runnable =
            lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
        warp.meeting = warp.at_mbarrier = warp.passed = 0;
    }
    if (!w.clean) {
        w.free_stacks = w.stacks;
        memset(w.barriers, 0, sizeof w.barriers);
    }
    w.clean = false;
    w.todo = w.first_lane = 0;
    w.downwards = w.settings->order == Order::Descending;
    w.any_passed = false;
    reset_copies(w);
    w.random = w.settings->seed * 0x2545f4914f6cdd1d + number;
    threadIdx = {0, 0, 0};
    blockDim = {w.threads, 1, 1};
    gridDim = {job.grid[0], job.grid[1], job.grid[2]};
    blockIdx.x = (unsigned)(number % job.grid[0]);
    blockIdx.y = (unsigned)(number / job.grid[0] % job.grid[1]);
    blockIdx.z = (unsigned)(number / job.grid[0] / job.grid[1]);
    // NaN in every type: what is read before it is written shows.
    memset(w.shared, 0xff, job.shared_bytes);
    memcpy(w.shared + job.shared_bytes, guard.bytes, SHARED_GUARD);
}

// Handles accesses to memory that is not mapped, and integer divisions by zero.
void on_signal(int number, siginfo_t* info, void* context);

struct sigaction before_segv, before_bus, before_fpe;

void on_signal(int number, siginfo_t* info, void*) {
    Worker* w = worker;
    if (w && w->current) {
        char text[128];
        if (number == SIGFPE) {
            snprintf(text, sizeof text, "an integer is divided by zero");
        } else {
            snprintf(text, sizeof text,
                     "an illegal address was accessed: %p (or the thread's stack is full)",
                     info->si_addr);
        }
        note_failure(*w, text);
        siglongjmp(w->escape, 1);
    }
    const struct sigaction& before = number == SIGFPE   ? before_fpe
                                     : number == SIGBUS ? before_bus
                                                        : before_segv;
    // It happens again when this returns.
    sigaction(number, &before, nullptr);
}

void catch_signals() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &before_segv);
        sigaction(SIGBUS, &action, &before_bus);
        sigaction(SIGFPE, &action, &before_fpe);
    });
    // A handler of a full stack has to run on another.
    stack_t stack;
    if (sigaltstack(nullptr, &stack) == 0 && (stack.ss_flags & SS_DISABLE)) {
        constexpr size_t bytes = 64 << 10;
        stack.ss_sp = malloc(bytes);
        stack.ss_size = bytes;
        stack.ss_flags = 0;
        if (stack.ss_sp) sigaltstack(&stack, nullptr);
    }
}

}  // namespace

Worker::Worker() {
    void* at = mmap(nullptr, MOST_SHARED + 2 * SHARED_GUARD + 4096, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) abort();
    shared = static_cast<uint8_t*>(at) + SHARED_GUARD;
    memcpy(at, guard.bytes, SHARED_GUARD);
    written.resize(MOST_SHARED / 16);
    for (uint32_t i = 0; i < MOST_THREADS; ++i) fibers[i].index = i;
}

void suspend(Worker& w) {
    Fiber& fiber = *w.current;
    void* to = onward(w, false);
    emulator_switch(&fiber.top, to);
    // What others wrote meanwhile is read again.
    __asm__ volatile("" ::: "memory");
}

void note_failure(Worker& w, const char* text) {
    Job& job = *w.job;
    char where[192];
    int length = snprintf(where, sizeof where, "kernel `%s`, block (%u, %u, %u)", job.kernel->name,
                          blockIdx.x, blockIdx.y, blockIdx.z);
    if (w.current) snprintf(where + length, sizeof where - length, ", thread %u", w.current->index);
    std::lock_guard<std::mutex> lock(job.mutex);
    if (!job.failed.exchange(true)) job.message = std::string(where) + ": " + text;
}

void fail(const char* format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    note_failure(*worker, text);
    siglongjmp(worker->escape, 1);
}

bool Worker::run(Job& to_do, uint64_t number) {
    if (worker != this) catch_signals();
    job = &to_do;
    settings = &to_do.device->settings;
    worker = this;
    begin(*this, number);
    if (sigsetjmp(escape, 0)) {
        current = nullptr;
        return false;
    }
    while (live > 0) {
        if (run_all(*this) || copy_what_is_waited_for(*this)) continue;
        report_deadlock(*this);
        return false;
    }
    const uint8_t *before = shared - SHARED_GUARD, *after = shared + to_do.shared_bytes;
    if (memcmp(before, guard.bytes, SHARED_GUARD) || memcmp(after, guard.bytes, SHARED_GUARD)) {
        memcpy(shared - SHARED_GUARD, guard.bytes, SHARED_GUARD);
        fail("something was written beyond the block's %u bytes of shared memory",
             to_do.shared_bytes);
    }
    if (const char* left = left_under_way(*this)) fail("the block ends with %s under way", left);
    clean = true;
    return true;
}

void meet_warp(const WarpOp& op, uint32_t mask, void* brought, Site site) {
    Worker& w = *worker;
    Fiber& fiber = *w.current;
    Warp& warp = w.warp_of(fiber);
    uint32_t bit = 1u << lane, wanted = mask & warp.exists;
    if (!(mask & bit)) {
        fail("%s of the lanes %08x by a lane that is not one of them (%s:%d)", op.name, mask,
             file_name(site.file), site.line);
    }
    if (wanted & ~warp.live) {
        fail("%s of the lanes %08x, of which lane %d has returned (%s:%d)", op.name, mask,
             __builtin_ctz(wanted & ~warp.live), file_name(site.file), site.line);
    }
    fiber.wait = Wait::Warp;
    fiber.op = &op;
    fiber.name = op.name;
    fiber.mask = mask;
    fiber.brought = brought;
    fiber.site = site;
    warp.meeting |= bit;
    if ((warp.meeting & wanted) == wanted) {
        void* lanes[32];
        Fiber* fibers = &w.fibers[fiber.index - lane];
        bool together = true;
        for (uint32_t rest = wanted; rest; rest &= rest - 1) {
            uint32_t i = __builtin_ctz(rest);
            together &= fibers[i].op == &op && fibers[i].mask == mask;
            lanes[i] = fibers[i].brought;
        }
        if (together) {
            if (op.aligned) {
                for (uint32_t rest = wanted; rest; rest &= rest - 1) {
                    Site other = fibers[__builtin_ctz(rest)].site;
                    if (!same(site, other)) {
                        fail("%s by lanes at different places: %s:%d and %s:%d", op.name,
                             file_name(site.file), site.line, file_name(other.file), other.line);
                    }
                }
            }
            op.complete(lanes, wanted);
            warp.meeting &= ~wanted;
            warp.runnable |= wanted & ~bit;
            __asm__ volatile("" ::: "memory");
            return;
        }
    }
    suspend(w);
}

uint32_t meet_block(const char* name, bool predicate, Site site) {
    Worker& w = *worker;
    Fiber& fiber = *w.current;
    Barrier& barrier = w.barriers[0];
    if (barrier.arrived == 0) {
        barrier.name = name;
        barrier.site = site;
    } else if (!same(site, barrier.site)) {
        fail("threads of the block wait at different places: %s (%s:%d) and %s (%s:%d)", name,
             file_name(site.file), site.line, barrier.name, file_name(barrier.site.file),
             barrier.site.line);
    }
    fiber.wait = Wait::Block;
    fiber.name = name;
    fiber.site = site;
    barrier.counted += predicate;
    barrier.waiting[fiber.index / 32] |= 1u << lane;
    if (++barrier.arrived == w.live) {
        release(w, barrier);
        w.warp_of(fiber).runnable &= ~(1u << lane);
        __asm__ volatile("" ::: "memory");
    } else {
        suspend(w);
    }
    return barrier.result;
}

void meet_named(uint32_t id, uint32_t threads, Site site) {
    Worker& w = *worker;
    Fiber& fiber = *w.current;
    if (id < 1 || id > 15) fail("there is no named_barrier %u", id);
    if (threads == 0 || threads % 32) fail("named_barrier %u of %u threads", id, threads);
    Barrier& barrier = w.barriers[id];
    if (barrier.arrived == 0) {
        barrier.threads = threads;
    } else if (barrier.threads != threads) {
        fail("named_barrier %u of %u threads and of %u", id, threads, barrier.threads);
    }
    fiber.wait = Wait::Named;
    fiber.name = "named_barrier";
    fiber.site = site;
    fiber.id = id;
    barrier.waiting[fiber.index / 32] |= 1u << lane;
    if (++barrier.arrived < threads) {
        suspend(w);
        return;
    }
    for (uint32_t i = 0; i < w.warp_count; ++i) {
        if (barrier.waiting[i] && barrier.waiting[i] != w.warps[i].live) {
            fail("named_barrier %u is reached by a part of warp %u", id, i);
        }
    }
    release(w, barrier);
    w.warp_of(fiber).runnable &= ~(1u << lane);
    __asm__ volatile("" ::: "memory");
}

void pass() {
    Worker& w = *worker;
    w.warp_of(*w.current).passed |= 1u << lane;
    w.any_passed = true;
    suspend(w);
}

uint8_t* dynamic_shared() { return worker->shared; }

uint32_t shared_address(const void* at) {
    Worker& w = *worker;
    auto* byte = static_cast<const uint8_t*>(at);
    if (byte < w.shared || byte > w.shared + w.job->shared_bytes) {
        fail("shared_address of something that is not in dynamic shared memory");
    }
    return SHARED_BASE + (uint32_t)(byte - w.shared);
}

uint8_t* shared_memory(uint32_t address, uint32_t bytes, uint32_t alignment, const char* what) {
    Worker& w = *worker;
    uint64_t end = (uint64_t)address + bytes;
    if (address < SHARED_BASE || end > SHARED_BASE + (uint64_t)w.job->shared_bytes) {
        fail("%s at %u to %llu of %u bytes of shared memory", what, address - SHARED_BASE,
             (unsigned long long)(end - SHARED_BASE), w.job->shared_bytes);
    }
    if (address % alignment) {
        fail("%s at byte %u of shared memory, which is no multiple of %u", what,
             address - SHARED_BASE, alignment);
    }
    return w.shared_at(address);
}

const Allocation* Device::holding(const void* at, size_t bytes) const {
    auto* byte = static_cast<const uint8_t*>(at);
    size_t low = 0, high = allocations.size();
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (allocations[middle].begin <= byte) low = middle + 1;
        else high = middle;
    }
    if (low == 0) return nullptr;
    const Allocation& found = allocations[low - 1];
    size_t skipped = (size_t)(byte - found.begin);
    return skipped <= found.bytes && bytes <= found.bytes - skipped ? &found : nullptr;
}

void check_global(const void* at, size_t bytes, size_t alignment, const char* what) {
    Worker& w = *worker;
    if ((uintptr_t)at % alignment) fail("%s at %p, which is no multiple of %zu", what, at, alignment);
    auto* byte = static_cast<const uint8_t*>(at);
    if (const Allocation* last = w.last_allocation) {
        if (byte >= last->begin && byte + bytes <= last->begin + last->bytes) return;
    }
    const Allocation* found = w.job->device->holding(at, bytes);
    if (!found) fail("%s of %zu bytes at %p, which are not all of one allocation", what, bytes, at);
    w.last_allocation = found;
}

}  // namespace emulator
