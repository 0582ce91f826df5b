// A tensor map, as the emulated driver writes it.

#pragma once

#include <cstdint>

namespace emulator {

// As in ffi.rs.
struct TensorMap {
    static constexpr uint64_t MARK = 0x70616d2d72736e74;

    uint64_t mark;
    const uint8_t* at;
    uint64_t rows;
    uint64_t cols;
    uint64_t row_bytes;
    uint32_t box_rows;
    uint32_t bf16;
    uint8_t unused[80];
};
static_assert(sizeof(TensorMap) == 128, "the size of CUDA's");

}  // namespace emulator
