// What tensor cores do: products of small matrices that the lanes of a warp hold together.

#include "block.h"

namespace emulator {

namespace {

float widen(uint16_t bits, bool bf16) { return bf16 ? widen_bf16(bits) : widen_f16(bits); }

struct LdmatrixArgs {
    uint32_t* out;
    const uint8_t* row;
    bool transposed;
};

void complete_ldmatrix(void* const* lanes, uint32_t) {
    auto at = [&](uint32_t i) -> LdmatrixArgs& { return *static_cast<LdmatrixArgs*>(lanes[i]); };
    for (uint32_t l = 0; l < 32; ++l) {
        for (uint32_t m = 0; m < 4; ++m) {
            uint16_t pair[2];
            if (at(l).transposed) {
                for (uint32_t i = 0; i < 2; ++i) {
                    memcpy(&pair[i], at(8 * m + 2 * (l % 4) + i).row + 2 * (l / 4), 2);
                }
            } else {
                memcpy(pair, at(8 * m + l / 4).row + 4 * (l % 4), 4);
            }
            at(l).out[m] = pair[0] | (uint32_t)pair[1] << 16;
        }
    }
}

const WarpOp ldmatrix_op{"ldmatrix", true, complete_ldmatrix};

struct MmaArgs {
    float* d;
    const uint32_t* a;
    const uint32_t* b;
};

template <bool bf16> void complete_mma(void* const* lanes, uint32_t) {
    float a[16][16], b[16][8], d[16][8] = {};
    auto put = [&](float* to, size_t next, uint32_t pair) {
        to[0] = widen((uint16_t)pair, bf16);
        to[next] = widen((uint16_t)(pair >> 16), bf16);
    };
    for (uint32_t l = 0; l < 32; ++l) {
        auto& args = *static_cast<MmaArgs*>(lanes[l]);
        uint32_t g = l / 4, c = 2 * (l % 4);
        put(&a[g][c], 1, args.a[0]);
        put(&a[g + 8][c], 1, args.a[1]);
        put(&a[g][c + 8], 1, args.a[2]);
        put(&a[g + 8][c + 8], 1, args.a[3]);
        put(&b[c][g], 8, args.b[0]);
        put(&b[c + 8][g], 8, args.b[1]);
    }
    for (uint32_t i = 0; i < 16; ++i) {
        for (uint32_t k = 0; k < 16; ++k) {
            float x = a[i][k];
            for (uint32_t j = 0; j < 8; ++j) d[i][j] += x * b[k][j];
        }
    }
    for (uint32_t l = 0; l < 32; ++l) {
        auto& args = *static_cast<MmaArgs*>(lanes[l]);
        uint32_t g = l / 4, c = 2 * (l % 4);
        for (uint32_t i = 0; i < 2; ++i) {
            args.d[i] += d[g][c + i];
            args.d[2 + i] += d[g + 8][c + i];
        }
    }
}

const WarpOp mma_ops[2] = {{"mma of f16", true, complete_mma<false>},
                           {"mma of bf16", true, complete_mma<true>}};

void need_whole_warp(const char* what) {
    Worker& w = *worker;
    if (w.warp_of(*w.current).exists != 0xffffffff) fail("%s by a warp of fewer than 32 lanes", what);
}

// Element `k` of row `row` of the tile that a descriptor is of: rows of 128 bytes in groups of 8,
// the groups some bytes apart, 16-byte pieces exchanged by the row's place in 1024 bytes.
uint32_t tile_address(uint64_t descriptor, uint32_t row, uint32_t k) {
    uint32_t start = (uint32_t)(descriptor & 0x3fff) << 4;
    uint32_t group_bytes = (uint32_t)(descriptor >> 32 & 0x3fff) << 4;
    uint32_t address = start + row / 8 * group_bytes + row % 8 * 128 + 2 * k;
    return address ^ (address >> 3 & 0x70);
}

void check_tile(uint64_t descriptor, uint32_t rows, const char* what) {
    Worker& w = *worker;
    if (descriptor >> 62 != 1) fail("%s is not of the 128-byte swizzle", what);
    if (descriptor >> 49 & 7) fail("%s has a base offset", what);
    uint32_t start = (uint32_t)(descriptor & 0x3fff) << 4;
    if (start % 1024 >= 128) {
        fail("%s begins at byte %u of shared memory, in the midst of 8 rows", what,
             start - SHARED_BASE);
    }
    if (start % 128 > 96) fail("%s begins at byte %u of a row", what, start % 128);
    if ((descriptor >> 32 & 0x3fff) % 64) fail("%s has groups of rows that are not aligned", what);
    uint32_t row_start = start / 128 * 128;
    uint32_t bytes = (rows / 8 - 1) * ((uint32_t)(descriptor >> 32 & 0x3fff) << 4) + 1024;
    shared_memory(row_start, bytes, 128, what);
    // wgmma sees the results of cp.async after a fence.
    for (uint32_t row = 0; row < rows; ++row) {
        for (uint32_t k = 0; k < 16; k += 8) {
            Written written = w.written[(tile_address(descriptor, row, k) - SHARED_BASE) / 16];
            if (written.at <= w.fibers[written.thread].fenced_at) continue;
            if (written.at <= w.current->fenced_at) continue;
            fail("%s holds what thread %u brought by cp_async_16 without fence_proxy_async after "
                 "it had come", what, written.thread);
        }
    }
}

void multiply(Worker& w, const Product& product, uint32_t first_row) {
    float a[16][16], b[16][256], d[16][256];
    auto load = [&](uint64_t descriptor, uint32_t row, uint32_t k) {
        uint16_t bits;
        memcpy(&bits, w.shared_at(tile_address(descriptor, row, k)), 2);
        return widen(bits, product.bf16);
    };
    for (uint32_t i = 0; i < 16; ++i) {
        for (uint32_t k = 0; k < 16; ++k) a[i][k] = load(product.a, first_row + i, k);
    }
    for (uint32_t j = 0; j < product.columns; ++j) {
        for (uint32_t k = 0; k < 16; ++k) b[k][j] = load(product.b, j, k);
    }
    memset(d, 0, sizeof d);
    for (uint32_t i = 0; i < 16; ++i) {
        for (uint32_t k = 0; k < 16; ++k) {
            float x = a[i][k];
            for (uint32_t j = 0; j < product.columns; ++j) d[i][j] += x * b[k][j];
        }
    }
    for (uint32_t l = 0; l < 32; ++l) {
        float* out = product.d[l];
        for (uint32_t j = 0; j < product.columns / 8; ++j) {
            for (uint32_t i = 0; i < 4; ++i) {
                float sum = d[l / 4 + (i < 2 ? 0 : 8)][8 * j + 2 * (l % 4) + i % 2];
                out[4 * j + i] = product.accumulate ? out[4 * j + i] + sum : sum;
            }
        }
    }
}

// Rows of the warp in the 64 of its group.
uint32_t first_row(const Fiber& fiber) { return fiber.index / 32 % 4 * 16; }

struct WgmmaArgs {
    float* d;
    uint64_t a;
    uint64_t b;
    uint32_t columns;
    bool bf16;
    bool accumulate;
};

void complete_wgmma(void* const* lanes, uint32_t) {
    Worker& w = *worker;
    auto at = [&](uint32_t i) -> WgmmaArgs& { return *static_cast<WgmmaArgs*>(lanes[i]); };
    const WgmmaArgs& first = at(0);
    Product product{false, first.bf16, first.accumulate, first.columns, first.a, first.b, {}};
    for (uint32_t l = 0; l < 32; ++l) {
        const WgmmaArgs& args = at(l);
        if (args.a != first.a || args.b != first.b || args.accumulate != first.accumulate) {
            fail("wgmma by lanes that differ in what they multiply");
        }
        product.d[l] = args.d;
    }
    check_tile(product.a, 64, "the first matrix of a wgmma");
    check_tile(product.b, product.columns, "the second matrix of a wgmma");
    Warp& warp = w.warp_of(*w.current);
    warp.products.push_back(product);
    if (!w.settings->late) multiply(w, product, first_row(*w.current));
}

const WarpOp wgmma_op{"wgmma", true, complete_wgmma};

void complete_wgmma_commit(void* const*, uint32_t) {
    Worker& w = *worker;
    w.warp_of(*w.current).products.push_back({true, false, false, 0, 0, 0, {}});
}

const WarpOp wgmma_commit_op{"wgmma_commit", true, complete_wgmma_commit};

void complete_wgmma_wait(void* const* lanes, uint32_t) {
    Worker& w = *worker;
    std::vector<Product>& products = w.warp_of(*w.current).products;
    uint32_t groups_left = *static_cast<uint32_t*>(lanes[0]);
    size_t done = products.size();
    for (; done > 0; --done) {
        if (products[done - 1].commit && groups_left-- == 0) break;
    }
    for (size_t i = 0; i < done; ++i) {
        if (w.settings->late && !products[i].commit) multiply(w, products[i], first_row(*w.current));
    }
    products.erase(products.begin(), products.begin() + (ptrdiff_t)done);
}

const WarpOp wgmma_wait_op{"wgmma_wait", true, complete_wgmma_wait};

void complete_wgmma_fence(void* const*, uint32_t) {}

const WarpOp wgmma_fence_op{"wgmma_fence", true, complete_wgmma_fence};

}  // namespace

void ldmatrix_x4(uint32_t* out, uint32_t row, bool transposed, Site site) {
    need_whole_warp("ldmatrix");
    LdmatrixArgs args{out, shared_memory(row, 16, 16, "ldmatrix"), transposed};
    meet_warp(ldmatrix_op, 0xffffffff, &args, site);
}

void mma_16x8x16(float* d, const uint32_t* a, const uint32_t* b, bool bf16, Site site) {
    need_whole_warp("mma");
    MmaArgs args{d, a, b};
    meet_warp(mma_ops[bf16], 0xffffffff, &args, site);
}

void wgmma_fence(Site site) {
    need_whole_warp("wgmma_fence");
    worker->any_fences = true;
    worker->current->wgmma_fenced = true;
    meet_warp(wgmma_fence_op, 0xffffffff, nullptr, site);
}

void wgmma_commit(Site site) { meet_warp(wgmma_commit_op, 0xffffffff, nullptr, site); }

void wgmma_wait(uint32_t groups_left, Site site) {
    // Complete sums may be read and written, and have to be fenced again then.
    if (groups_left == 0) worker->current->wgmma_fenced = false;
    meet_warp(wgmma_wait_op, 0xffffffff, &groups_left, site);
}

void wgmma(float* d, uint32_t columns, uint64_t a, uint64_t b, bool bf16, bool accumulate,
           Site site) {
    Worker& w = *worker;
    need_whole_warp("wgmma");
    if (w.warp_count % 4) fail("wgmma in a block of %u warps", w.warp_count);
    if (!w.current->wgmma_fenced) fail("wgmma without wgmma_fence before");
    WgmmaArgs args{d, a, b, columns, bf16, accumulate};
    meet_warp(wgmma_op, 0xffffffff, &args, site);
}

}  // namespace emulator
