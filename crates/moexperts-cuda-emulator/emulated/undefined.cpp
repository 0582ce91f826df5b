// What the compiler's checks of undefined behaviour call (`-fsanitize`): most of it is as wrong on a
// GPU, and some, like an address that is not aligned, the host would not mind.

#include <cstdio>

#include "block.h"

namespace {

using emulator::fail;

struct Place {
    const char* file;
    uint32_t line;
    uint32_t column;
};

struct MismatchData {
    Place place;
    const void* type;
    unsigned char log_alignment;
    unsigned char kind;
};

[[noreturn]] void undefined(const void* data, const char* what) {
    auto* place = static_cast<const Place*>(data);
    const char* slash = strrchr(place->file, '/');
    fail("%s (%s:%u)", what, slash ? slash + 1 : place->file, place->line);
}

}  // namespace

extern "C" {

[[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(const void* data, uintptr_t at) {
    char what[96];
    unsigned alignment = 1u << static_cast<const MismatchData*>(data)->log_alignment;
    snprintf(what, sizeof what, "an address that is no multiple of %u was accessed: %#llx", alignment,
             (unsigned long long)at);
    undefined(data, what);
}
[[noreturn]] void __ubsan_handle_shift_out_of_bounds_abort(const void* data, uintptr_t, uintptr_t) {
    undefined(data, "a shift by more bits than there are");
}
[[noreturn]] void __ubsan_handle_out_of_bounds_abort(const void* data, uintptr_t index) {
    char what[64];
    snprintf(what, sizeof what, "an array has no element %lld", (long long)index);
    undefined(data, what);
}
[[noreturn]] void __ubsan_handle_divrem_overflow_abort(const void* data, uintptr_t, uintptr_t) {
    undefined(data, "an integer is divided by zero, or the quotient is too large");
}
[[noreturn]] void __ubsan_handle_add_overflow_abort(const void* data, uintptr_t, uintptr_t) {
    undefined(data, "a sum is too large for its type");
}
[[noreturn]] void __ubsan_handle_sub_overflow_abort(const void* data, uintptr_t, uintptr_t) {
    undefined(data, "a difference is too large for its type");
}
[[noreturn]] void __ubsan_handle_mul_overflow_abort(const void* data, uintptr_t, uintptr_t) {
    undefined(data, "a product is too large for its type");
}
[[noreturn]] void __ubsan_handle_negate_overflow_abort(const void* data, uintptr_t) {
    undefined(data, "a negated integer is too large for its type");
}

}  // extern "C"
