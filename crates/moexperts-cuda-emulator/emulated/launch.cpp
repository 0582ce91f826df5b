// Devices and launches: what Rust calls (ffi.rs).

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "block.h"

namespace emulator {

namespace {

const Kernel* kernels = nullptr;

// Around each allocation: NaN in every type, and no value that a kernel is likely to write.
constexpr size_t GUARD_BYTES = 256;
constexpr uint16_t GUARD = 0xfffe;

const uint8_t* guard() {
    static const uint8_t* const bytes = [] {
        static uint8_t bytes[GUARD_BYTES];
        for (size_t i = 0; i < GUARD_BYTES; i += 2) memcpy(bytes + i, &GUARD, 2);
        return bytes;
    }();
    return bytes;
}

// Whether a guard is as it was; makes it so.
bool restore_guard(uint8_t* at) {
    if (memcmp(at, guard(), GUARD_BYTES) == 0) return true;
    memcpy(at, guard(), GUARD_BYTES);
    return false;
}

// Threads of the host that help with launches, and what blocks need that run at the same time.
struct Pool {
    std::mutex mutex;
    std::condition_variable work;
    std::condition_variable done;
    std::vector<Job*> jobs;
    std::vector<Worker*> workers;
    uint32_t threads = 0;

    Worker* take_worker() {
        {
            std::lock_guard<std::mutex> lock(mutex);
            if (!workers.empty()) {
                Worker* worker = workers.back();
                workers.pop_back();
                return worker;
            }
        }
        return new Worker;
    }

    void give_worker(Worker* worker) {
        std::lock_guard<std::mutex> lock(mutex);
        workers.push_back(worker);
    }

    void start(uint32_t wanted) {
        uint32_t most = std::thread::hardware_concurrency();
        for (; threads < wanted && threads + 1 < most; ++threads) {
            std::thread([this] { help(); }).detach();
        }
    }

    void help();
};

Pool& pool() {
    // Its threads may outlive what `main` destroys.
    static Pool* pool = new Pool;
    return *pool;
}

void run_blocks(Job& job) {
    Worker* worker = pool().take_worker();
    while (!job.failed.load(std::memory_order_relaxed)) {
        uint64_t i = job.next.fetch_add(1, std::memory_order_relaxed);
        if (i >= job.total) break;
        uint64_t number = i;
        switch (job.device->settings.order) {
            case Order::Ascending: break;
            case Order::Descending: number = job.total - 1 - i; break;
            case Order::Shuffled:
                number = (i * job.stride + job.device->settings.seed) % job.total;
                break;
        }
        if (!worker->run(job, number)) break;
    }
    pool().give_worker(worker);
}

void Pool::help() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
        Job* job = nullptr;
        for (Job* candidate : jobs) {
            if (candidate->wanted > 0) job = candidate;
        }
        if (!job) {
            work.wait(lock);
            continue;
        }
        --job->wanted;
        ++job->helping;
        lock.unlock();
        run_blocks(*job);
        lock.lock();
        if (--job->helping == 0) done.notify_all();
    }
}

uint64_t common_divisor(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

void run(Job& job) {
    uint64_t helpers = std::min<uint64_t>(job.device->settings.threads, job.total) - 1;
    if (helpers == 0) {
        run_blocks(job);
        return;
    }
    Pool& p = pool();
    {
        std::lock_guard<std::mutex> lock(p.mutex);
        p.start((uint32_t)helpers);
        job.wanted = (uint32_t)helpers;
        p.jobs.push_back(&job);
    }
    if (helpers == 1) p.work.notify_one();
    else p.work.notify_all();
    run_blocks(job);
    std::unique_lock<std::mutex> lock(p.mutex);
    p.jobs.erase(std::find(p.jobs.begin(), p.jobs.end(), &job));
    p.done.wait(lock, [&] { return job.helping == 0; });
}

void say(char* message, size_t capacity, const char* text) { snprintf(message, capacity, "%s", text); }

}  // namespace

Kernel::Kernel(const char* name, const char* module, uint32_t params_bytes, uint32_t threads,
               void (*run)(const void*))
    : name(name), module(module), params_bytes(params_bytes), threads(threads), run(run),
      next(kernels) {
    kernels = this;
}

}  // namespace emulator

using namespace emulator;

extern "C" {

// So that the linker takes the modules: defined by the build script.
void emulator_modules();

Device* emulator_device(const Settings* settings) {
    emulator_modules();
    auto* device = new Device;
    device->settings = *settings;
    return device;
}

void emulator_delete(Device* device) {
    for (const Allocation& allocation : device->allocations) free(allocation.begin - GUARD_BYTES);
    delete device;
}

uint64_t emulator_alloc(Device* device, size_t bytes) {
    size_t rounded = (bytes + 2 * GUARD_BYTES + 255) / 256 * 256;
    void* at = nullptr;
    if (posix_memalign(&at, 256, rounded) != 0) return 0;
    uint8_t* begin = static_cast<uint8_t*>(at) + GUARD_BYTES;
    memcpy(begin - GUARD_BYTES, guard(), GUARD_BYTES);
    memset(begin, 0xff, bytes);
    memcpy(begin + bytes, guard(), GUARD_BYTES);
    auto& all = device->allocations;
    auto after = std::upper_bound(all.begin(), all.end(), begin,
                                  [](uint8_t* a, const Allocation& b) { return a < b.begin; });
    all.insert(after, {begin, bytes});
    return reinterpret_cast<uint64_t>(begin);
}

// The bytes that were there; none if nothing begins there.
size_t emulator_free(Device* device, uint64_t ptr) {
    auto& all = device->allocations;
    for (size_t i = 0; i < all.size(); ++i) {
        if (reinterpret_cast<uint64_t>(all[i].begin) != ptr) continue;
        size_t bytes = all[i].bytes;
        memset(all[i].begin, 0xff, bytes);
        free(all[i].begin - GUARD_BYTES);
        all.erase(all.begin() + (ptrdiff_t)i);
        return bytes;
    }
    return 0;
}

bool emulator_holds(const Device* device, uint64_t ptr, size_t bytes) {
    return device->holding(reinterpret_cast<const void*>(ptr), bytes) != nullptr;
}

// Whether nothing was written beyond an allocation since the last time.
bool emulator_check(const Device* device, char* message, size_t capacity) {
    bool whole = true;
    for (const Allocation& allocation : device->allocations) {
        const char* where = nullptr;
        if (!restore_guard(allocation.begin - GUARD_BYTES)) where = "before";
        if (!restore_guard(allocation.begin + allocation.bytes)) where = "after";
        if (!where) continue;
        snprintf(message, capacity, "something was written %s the %zu bytes at %p", where,
                 allocation.bytes, static_cast<void*>(allocation.begin));
        whole = false;
    }
    return whole;
}

const Kernel* emulator_kernel(const char* module, const char* name) {
    for (const Kernel* kernel = kernels; kernel; kernel = kernel->next) {
        if (!strcmp(kernel->name, name) && !strcmp(kernel->module, module)) return kernel;
    }
    return nullptr;
}

// Each kernel's name and module, one after another.
void emulator_each_kernel(void (*visit)(void*, const char*, const char*), void* context) {
    emulator_modules();
    for (const Kernel* kernel = kernels; kernel; kernel = kernel->next) {
        visit(context, kernel->module, kernel->name);
    }
}

uint32_t emulator_params_bytes(const Kernel* kernel) { return kernel->params_bytes; }

uint32_t emulator_threads(const Kernel* kernel) { return kernel->threads; }

bool emulator_launch(const Device* device, const Kernel* kernel, const uint32_t* grid,
                     uint32_t shared_bytes, const void* params, char* message, size_t capacity) {
    Job job;
    job.kernel = kernel;
    job.params = static_cast<const uint8_t*>(params);
    memcpy(job.grid, grid, sizeof job.grid);
    job.shared_bytes = shared_bytes;
    job.device = device;
    job.total = (uint64_t)grid[0] * grid[1] * grid[2];
    job.stride = device->settings.seed % 61 + 1;
    while (common_divisor(job.stride, job.total) != 1) ++job.stride;
    run(job);
    if (job.failed) say(message, capacity, job.message.c_str());
    return !job.failed;
}

}  // extern "C"
