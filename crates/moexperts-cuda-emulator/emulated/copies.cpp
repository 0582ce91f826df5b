// Asynchronous copies: cp.async and the tensor memory accelerator, with the barriers that say when copies
// are complete.

#include <cstdio>

#include "block.h"
#include "tensor_map.h"

namespace emulator {

namespace {

// The bits of an mbarrier. The first four are a count as the hardware has it.
struct Mbarrier {
    static constexpr uint64_t COUNT = (1 << 20) - 1;
    // Whether it was initialised.
    static constexpr uint64_t MARK = 1;

    uint32_t pending;
    uint32_t arrivals;
    int32_t bytes;
    uint32_t parity;

    static uint8_t* at(uint32_t address) {
        return shared_memory(address, 8, 8, "an mbarrier");
    }

    static Mbarrier load(uint32_t address) {
        uint64_t bits;
        memcpy(&bits, at(address), 8);
        if (bits >> 62 != MARK) {
            fail("the mbarrier at byte %u of shared memory is not initialised",
                 address - SHARED_BASE);
        }
        Mbarrier out;
        out.pending = (uint32_t)(bits & COUNT);
        out.arrivals = (uint32_t)(bits >> 20 & COUNT);
        out.bytes = (int32_t)((bits >> 40 & 0x1fffff) << 11) >> 11;
        out.parity = (uint32_t)(bits >> 61 & 1);
        return out;
    }

    void store(uint32_t address) const {
        uint64_t bits = MARK << 62 | (uint64_t)parity << 61 |
                        ((uint64_t)(uint32_t)bytes & 0x1fffff) << 40 | (uint64_t)arrivals << 20 |
                        pending;
        memcpy(at(address), &bits, 8);
    }
};

// Ends the phase if all arrivals and bytes are there, and releases the threads that wait for it.
void update(Worker& w, uint32_t address, Mbarrier barrier) {
    if (barrier.pending == 0 && barrier.bytes == 0) {
        barrier.parity ^= 1;
        barrier.pending = barrier.arrivals;
        for (uint32_t i = 0; i < w.warp_count; ++i) {
            Warp& warp = w.warps[i];
            for (uint32_t rest = warp.at_mbarrier; rest; rest &= rest - 1) {
                uint32_t l = (uint32_t)__builtin_ctz(rest);
                const Fiber& fiber = w.fibers[32 * i + l];
                if (fiber.id == address && fiber.parity != barrier.parity) {
                    warp.at_mbarrier &= ~(1u << l);
                    warp.runnable |= 1u << l;
                }
            }
        }
    }
    barrier.store(address);
}

void arrive(Worker& w, uint32_t address, uint32_t expected_bytes) {
    Mbarrier barrier = Mbarrier::load(address);
    if (barrier.pending == 0) {
        fail("more arrive at the mbarrier at byte %u of shared memory than the %u it counts",
             address - SHARED_BASE, barrier.arrivals);
    }
    barrier.bytes += (int32_t)expected_bytes;
    --barrier.pending;
    update(w, address, barrier);
}

void copy_now(Worker& w, const Copy& copy, uint32_t thread) {
    uint8_t* to = w.shared_at(copy.to);
    memcpy(to, copy.from, copy.bytes);
    memset(to + copy.bytes, 0, 16u - copy.bytes);
    w.written[(copy.to - SHARED_BASE) / 16] = {++w.clock, thread};
}

// Does the first entries of a thread's queue.
void copy_first(Worker& w, Fiber& fiber, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        const Copy& copy = fiber.copies[i];
        if (copy.kind == Copy::Arrive) {
            arrive(w, copy.to, 0);
        } else if (copy.kind == Copy::Bytes) {
            copy_now(w, copy, fiber.index);
        }
    }
    fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + (ptrdiff_t)count);
}

void copy_now(Worker& w, const TensorCopy& copy) {
    TensorMap map;
    memcpy(&map, copy.map, sizeof map);
    uint8_t* to = w.shared_at(copy.to);
    for (uint32_t r = 0; r < map.box_rows; ++r, to += 128) {
        int64_t row = (int64_t)copy.y + r;
        uint8_t line[128] = {};
        if (row >= 0 && row < (int64_t)map.rows) {
            const uint8_t* from = map.at + (size_t)row * map.row_bytes;
            int64_t first = copy.x < 0 ? -(int64_t)copy.x : 0;
            int64_t end = (int64_t)map.cols - copy.x < 64 ? (int64_t)map.cols - copy.x : 64;
            if (first < end) {
                memcpy(line + 2 * first, from + 2 * (copy.x + first), (size_t)(2 * (end - first)));
            }
        }
        for (uint32_t piece = 0; piece < 8; ++piece) {
            memcpy(to + 16 * (piece ^ (r & 7)), line + 16 * piece, 16);
        }
    }
    uint32_t bytes = map.box_rows * 128;
    for (uint32_t i = 0; i < bytes / 16; ++i) w.written[(copy.to - SHARED_BASE) / 16 + i] = {0, 0};
    Mbarrier barrier = Mbarrier::load(copy.barrier);
    barrier.bytes -= (int32_t)bytes;
    update(w, copy.barrier, barrier);
}

// Does one of the copies that end the phase of an mbarrier.
bool copy_for(Worker& w, uint32_t barrier) {
    size_t count = w.tensor_copies.size();
    for (size_t i = 0; i < count; ++i) {
        // The order in which copies complete is not defined.
        size_t chosen = w.settings->order == Order::Ascending ? i : count - 1 - i;
        if (w.tensor_copies[chosen].barrier != barrier) continue;
        TensorCopy copy = w.tensor_copies[chosen];
        w.tensor_copies.erase(w.tensor_copies.begin() + (ptrdiff_t)chosen);
        copy_now(w, copy);
        return true;
    }
    if (!w.any_copies) return false;
    for (uint32_t i = 0; i < w.threads; ++i) {
        Fiber& fiber = w.fibers[i];
        for (size_t j = 0; j < fiber.copies.size(); ++j) {
            if (fiber.copies[j].kind == Copy::Arrive && fiber.copies[j].to == barrier) {
                copy_first(w, fiber, j + 1);
                return true;
            }
        }
    }
    return false;
}

}  // namespace

bool copy_what_is_waited_for(Worker& w) {
    for (uint32_t i = 0; i < w.warp_count; ++i) {
        for (uint32_t rest = w.warps[i].at_mbarrier; rest; rest &= rest - 1) {
            if (copy_for(w, w.fibers[32 * i + (uint32_t)__builtin_ctz(rest)].id)) return true;
        }
    }
    return false;
}

const char* left_under_way(Worker& w) {
    if (!w.tensor_copies.empty()) return "a tma_load that was not waited for";
    for (uint32_t i = 0; i < w.warp_count; ++i) {
        if (!w.warps[i].products.empty()) return "a wgmma that was not waited for";
    }
    return nullptr;
}

void reset_copies(Worker& w) {
    if (w.any_copies) {
        for (Fiber& fiber : w.fibers) fiber.copies.clear();
        w.any_copies = false;
    }
    if (w.any_fences) {
        for (Fiber& fiber : w.fibers) {
            fiber.fenced_at = 0;
            fiber.wgmma_fenced = false;
        }
        w.any_fences = false;
    }
    if (w.clock) {
        memset(w.written.data(), 0, w.written.size() * sizeof(Written));
        w.clock = 0;
    }
    for (Warp& warp : w.warps) warp.products.clear();
    w.tensor_copies.clear();
    w.acquired.clear();
    w.init_fenced = false;
    w.last_allocation = nullptr;
}

void copy_async(uint32_t to, const void* from, uint32_t bytes) {
    Worker& w = *worker;
    shared_memory(to, 16, 16, "cp_async_16");
    if (bytes > 16) fail("cp_async_16 of %u bytes", bytes);
    if ((uintptr_t)from % 16) fail("cp_async_16 from %p, which is no multiple of 16", from);
    if (bytes) check_global(from, bytes, 16, "cp_async_16");
    Copy copy{Copy::Bytes, (uint8_t)bytes, to, from};
    if (!w.settings->late) {
        copy_now(w, copy, w.current->index);
        return;
    }
    w.any_copies = true;
    w.current->copies.push_back(copy);
}

void commit_copies() {
    Worker& w = *worker;
    if (!w.settings->late) return;
    w.any_copies = true;
    w.current->copies.push_back({Copy::Commit, 0, 0, nullptr});
}

void wait_for_copies(uint32_t groups_left) {
    Worker& w = *worker;
    Fiber& fiber = *w.current;
    size_t i = fiber.copies.size();
    // Up to the commit that has `groups_left` after it.
    for (; i > 0; --i) {
        if (fiber.copies[i - 1].kind == Copy::Commit && groups_left-- == 0) break;
    }
    copy_first(w, fiber, i);
}

void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
    if (arrivals < 1 || arrivals > Mbarrier::COUNT) fail("an mbarrier of %u arrivals", arrivals);
    Mbarrier{arrivals, arrivals, 0, 0}.store(barrier);
    worker->init_fenced = false;
}

void mbarrier_init_fence() { worker->init_fenced = true; }

void mbarrier_arrive(uint32_t barrier, uint32_t expected_bytes) {
    arrive(*worker, barrier, expected_bytes);
}

void mbarrier_arrive_after_copies(uint32_t barrier) {
    Worker& w = *worker;
    Mbarrier::load(barrier);
    if (w.current->copies.empty()) {
        arrive(w, barrier, 0);
    } else {
        w.current->copies.push_back({Copy::Arrive, 0, barrier, nullptr});
    }
}

void mbarrier_wait(uint32_t barrier, uint32_t parity, Site site) {
    Worker& w = *worker;
    Fiber& fiber = *w.current;
    if (parity > 1) fail("mbarrier_wait for parity %u", parity);
    // Again when it goes on: the phase after may have ended too, as a thread that looks late sees.
    while (Mbarrier::load(barrier).parity == parity) {
        fiber.wait = Wait::Mbarrier;
        fiber.name = "mbarrier_wait";
        fiber.site = site;
        fiber.id = barrier;
        fiber.parity = parity;
        w.warp_of(fiber).at_mbarrier |= 1u << lane;
        suspend(w);
    }
}

void tensor_map_acquire(const void* map) {
    Worker& w = *worker;
    check_global(map, sizeof(TensorMap), 64, "tensor_map_acquire");
    w.acquired.emplace_back(map, w.current);
}

void tensor_load(uint32_t to, const void* at, int32_t x, int32_t y, uint32_t barrier) {
    Worker& w = *worker;
    auto* byte = static_cast<const uint8_t*>(at);
    if ((uintptr_t)at % 64) fail("tma_load with a map at %p, which is no multiple of 64", at);
    if (byte < w.job->params || byte >= w.job->params + w.job->kernel->params_bytes) {
        check_global(at, sizeof(TensorMap), 64, "tma_load with a map");
        bool acquired = false;
        for (auto [map, thread] : w.acquired) acquired |= map == at && thread == w.current;
        if (!acquired) fail("tma_load with a map in global memory without tensor_map_acquire");
    }
    TensorMap map;
    memcpy(&map, at, sizeof map);
    if (map.mark != TensorMap::MARK) fail("tma_load with something that is no tensor map");
    shared_memory(to, map.box_rows * 128, 1024, "tma_load");
    Mbarrier::load(barrier);
    if (!w.init_fenced) fail("tma_load before mbarrier_init_fence");
    if (map.rows && !w.job->device->holding(
            map.at, (size_t)(map.rows - 1) * map.row_bytes + 2 * (size_t)map.cols)) {
        fail("tma_load of a matrix that is not all of one allocation");
    }
    TensorCopy copy{to, at, x, y, barrier};
    if (w.settings->late) {
        w.tensor_copies.push_back(copy);
    } else {
        copy_now(w, copy);
    }
}

void fence_proxy_async() {
    Worker& w = *worker;
    w.any_fences = true;
    w.current->fenced_at = w.clock;
}

}  // namespace emulator
