#pragma once
#include <peft/core/matrix_view.hpp>

#include <cstddef>
#include <new>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

PEFT_ISA_BEGIN

/// A stack of memory for the caches of a tape and the scratch of a thread: allocations are pointers moved forward, and
/// everything is given back at once. Memory that was needed once is kept, so a repeated sequence of requests allocates
/// nothing. Blocks are 64-byte aligned and not initialised.
class Arena {
public:
    /// A position to return to.
    struct Mark {
        std::size_t chunk = 0;
        std::size_t used = 0;
    };

    Arena() noexcept = default;
    Arena(Arena&& other) noexcept : chunks_(std::move(other.chunks_)), at_(std::exchange(other.at_, {})) { other.chunks_.clear(); }
    Arena& operator=(Arena&& other) noexcept {
        std::swap(chunks_, other.chunks_);
        std::swap(at_, other.at_);
        return *this;
    }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() {
        for (const Chunk& chunk : chunks_) ::operator delete(chunk.data, std::align_val_t{alignment});
    }

    template <class T> std::span<T> vector(std::size_t count) {
        static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);
        detail::checked_size(count, 1, sizeof(T));
        return {static_cast<T*>(allocate(count * sizeof(T))), count};
    }
    template <class T> MatrixView<T> matrix(std::size_t rows, std::size_t cols) {
        return {vector<T>(detail::checked_size(rows, cols, sizeof(T))).data(), rows, cols};
    }
    void* allocate(std::size_t bytes) {
        bytes = (bytes + alignment - 1) / alignment * alignment;
        while (at_.chunk < chunks_.size()) {
            Chunk& chunk = chunks_[at_.chunk];
            if (bytes <= chunk.size - at_.used) {
                void* result = chunk.data + at_.used;
                at_.used += bytes;
                return result;
            }
            if (at_.chunk + 1 == chunks_.size()) break;
            at_ = {at_.chunk + 1, 0};
        }
        grow(bytes);
        at_.used = bytes;
        return chunks_[at_.chunk].data;
    }

    Mark mark() const noexcept { return at_; }
    void rewind(Mark mark) noexcept { at_ = mark; }
    void reset() noexcept { at_ = {}; }
    /// Bytes held, used or not.
    std::size_t capacity() const noexcept {
        std::size_t total = 0;
        for (const Chunk& chunk : chunks_) total += chunk.size;
        return total;
    }

private:
    static constexpr std::size_t alignment = 64;
    struct Chunk {
        std::byte* data;
        std::size_t size;
    };

    PEFT_COLD void grow(std::size_t bytes) {
        const std::size_t wanted = chunks_.empty() ? std::size_t{4096} : chunks_.back().size * 2;
        const std::size_t size = bytes > wanted ? bytes : wanted;
        chunks_.reserve(chunks_.size() + 1);
        auto* data = static_cast<std::byte*>(::operator new(size, std::align_val_t{alignment}));
        chunks_.push_back({data, size});
        at_ = {chunks_.size() - 1, 0};
    }

    std::vector<Chunk> chunks_;
    Mark at_;
};

/// The scratch memory of the calling thread; use it through ArenaScope.
inline Arena& thread_arena() {
    static thread_local Arena arena;
    return arena;
}

/// Where inference keeps the caches of a call: apart from the scratch memory, whose scopes close in between.
inline Arena& thread_keep_arena() {
    static thread_local Arena arena;
    return arena;
}

/// Gives back on destruction whatever was taken from the arena since construction.
class ArenaScope {
public:
    explicit ArenaScope(Arena& arena = thread_arena()) noexcept : arena_(arena), mark_(arena.mark()) {}
    ArenaScope(const ArenaScope&) = delete;
    ArenaScope& operator=(const ArenaScope&) = delete;
    ~ArenaScope() { arena_.rewind(mark_); }

    Arena& arena() noexcept { return arena_; }
    template <class T> std::span<T> vector(std::size_t count) { return arena_.vector<T>(count); }
    template <class T> MatrixView<T> matrix(std::size_t rows, std::size_t cols) { return arena_.matrix<T>(rows, cols); }

private:
    Arena& arena_;
    Arena::Mark mark_;
};

PEFT_ISA_END
