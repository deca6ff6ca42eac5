#include "support/allocation_counter.hpp"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define PEFT_TEST_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PEFT_TEST_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(__GLIBC__) && !defined(PEFT_TEST_ADDRESS_SANITIZER)
#define PEFT_TEST_REPLACES_MALLOC 1
#endif

namespace {

std::atomic<std::size_t> count{0};
std::atomic<std::size_t> live{0};
std::atomic<std::size_t> fail_at{0};     // 0: never
std::atomic<std::size_t> seen{0};
std::atomic<bool> fail_for_good{false};

bool fails() noexcept {
    const std::size_t k = fail_at.load();
    if (k == 0) return false;
    const std::size_t now = ++seen;
    return now == k || (fail_for_good.load() && now > k);
}

}  // namespace

#if defined(PEFT_TEST_REPLACES_MALLOC)
// glibc's own names of the functions that are replaced
extern "C" void* __libc_malloc(std::size_t);
extern "C" void* __libc_calloc(std::size_t, std::size_t);
extern "C" void* __libc_realloc(void*, std::size_t);
extern "C" void* __libc_memalign(std::size_t, std::size_t);

extern "C" void* malloc(std::size_t bytes) noexcept {
    ++count;
    return __libc_malloc(bytes);
}
extern "C" void* calloc(std::size_t n, std::size_t bytes) noexcept {
    ++count;
    return __libc_calloc(n, bytes);
}
extern "C" void* realloc(void* old, std::size_t bytes) noexcept {
    ++count;
    return __libc_realloc(old, bytes);
}
extern "C" void* memalign(std::size_t alignment, std::size_t bytes) noexcept {
    ++count;
    return __libc_memalign(alignment, bytes);
}
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept { return memalign(alignment, bytes); }
extern "C" int posix_memalign(void** result, std::size_t alignment, std::size_t bytes) noexcept {
    void* const block = memalign(alignment, bytes);
    if (block == nullptr) return ENOMEM;
    *result = block;
    return 0;
}
#endif

namespace {

void* get(std::size_t bytes, std::size_t alignment) noexcept {
    if (fails()) return nullptr;
#if defined(PEFT_TEST_REPLACES_MALLOC)
    ++count;
    void* const block = alignment <= alignof(std::max_align_t) ? __libc_malloc(bytes) : __libc_memalign(alignment, bytes);
#else
    ++count;
    void* block = nullptr;
    if (alignment <= alignof(std::max_align_t)) block = std::malloc(bytes == 0 ? 1 : bytes);
    else if (posix_memalign(&block, alignment, bytes) != 0) block = nullptr;
#endif
    if (block != nullptr) ++live;
    return block;
}

void* get_or_throw(std::size_t bytes, std::size_t alignment) {
    if (void* const block = get(bytes, alignment)) return block;
    throw std::bad_alloc();
}

void put(void* block) noexcept {
    if (block == nullptr) return;
    --live;
    std::free(block);
}

}  // namespace

void* operator new(std::size_t bytes) { return get_or_throw(bytes, 1); }
void* operator new[](std::size_t bytes) { return get_or_throw(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t alignment) { return get_or_throw(bytes, static_cast<std::size_t>(alignment)); }
void* operator new[](std::size_t bytes, std::align_val_t alignment) { return get_or_throw(bytes, static_cast<std::size_t>(alignment)); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return get(bytes, 1); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return get(bytes, 1); }
void operator delete(void* block) noexcept { put(block); }
void operator delete[](void* block) noexcept { put(block); }
void operator delete(void* block, std::size_t) noexcept { put(block); }
void operator delete[](void* block, std::size_t) noexcept { put(block); }
void operator delete(void* block, std::align_val_t) noexcept { put(block); }
void operator delete[](void* block, std::align_val_t) noexcept { put(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { put(block); }
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept { put(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { put(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { put(block); }

namespace peft_test {

std::size_t allocations() noexcept { return count.load(); }
std::size_t live_blocks() noexcept { return live.load(); }

AllocationFailure::AllocationFailure(std::size_t k, bool for_good) noexcept {
    seen = 0;
    fail_for_good = for_good;
    fail_at = k;
}
AllocationFailure::~AllocationFailure() { fail_at = 0; }
bool AllocationFailure::happened() const noexcept { return seen.load() >= fail_at.load(); }

}  // namespace peft_test
