#pragma once
#include <peft/core/parameter.hpp>
#include <peft/io/json.hpp>
#include <peft/io/safetensors.hpp>
#include <peft/kernels/checksum.hpp>
#include <peft/layers/bank.hpp>

#include <array>
#include <bit>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

PEFT_ISA_DETAIL_BEGIN

// What a training state is made of, whatever object a part comes from.

/// A parameter, behind the state that it shares with its layer.
struct StateTensor {
    std::string name;
    std::shared_ptr<void> owner;
    io::Dtype dtype;
    std::array<std::size_t, 2> (*shape)(const void* owner) noexcept;
    std::span<std::byte> (*bytes)(void* owner) noexcept;
    void (*loaded)(void* owner) noexcept;   // raises the version, clears the gradient
};

template <class U> StateTensor state_tensor(std::string name, const Parameter<U>& parameter) {
    using State = typename Parameter<U>::State;
    return {std::move(name), parameter.state(), io::dtype_of<U>(),
            [](const void* owner) noexcept {
                const auto& value = static_cast<const State*>(owner)->value;
                return std::array{value.rows(), value.cols()};
            },
            [](void* owner) noexcept { return std::as_writable_bytes(static_cast<State*>(owner)->value.flat()); },
            [](void* owner) noexcept {
                static_cast<State*>(owner)->version += 1;
                static_cast<State*>(owner)->grad.set_zero();
            }};
}

/// What an optimizer keeps of one of its parameters.
struct StateMoments {
    struct Moment {
        std::string_view name;
        io::Dtype dtype;
        std::span<std::byte> bytes;
    };
    const void* parameter;    // its shared state: finds the tensor
    std::string optimizer;
    std::string name;         // in the optimizer's list
    std::string place;
    std::vector<Moment> moments;
};

/// A number that changes while training: an integer, or a finite real >= 0 that travels as its bits.
struct StateNumber {
    std::string key;
    void* owner;
    bool real;
    std::uint64_t (*get)(const void* owner) noexcept;
    void (*set)(void* owner, std::uint64_t value) noexcept;

    std::string text() const { return real ? to_text(std::bit_cast<double>(get(owner))) : std::to_string(get(owner)); }
    /// Throws FormatError for what is no such number.
    std::uint64_t parse(const std::string& file, const std::string& text) const {
        const char* end = text.data() + text.size();
        if (real) {
            double value = 0;
            const auto result = std::from_chars(text.data(), end, value);
            if (result.ec == std::errc() && result.ptr == end && is_finite(value) && value >= 0) return std::bit_cast<std::uint64_t>(value);
        } else {
            std::uint64_t value = 0;
            const auto result = std::from_chars(text.data(), end, value);
            if (result.ec == std::errc() && result.ptr == end) return value;
        }
        throw FormatError("not a number of a training state", {.file = file, .subject = key, .expected = real ? "a finite number >= 0" : "an integer of 64 bits", .found = text});
    }
};

/// All bytes of a state as they are now, under the names that they have in the file.
struct StateBytes {
    std::string name;
    io::Dtype dtype;
    std::vector<std::size_t> shape;
    std::span<std::byte> bytes;
};

inline std::string tensor_text(io::Dtype dtype, std::span<const std::size_t> shape) { return std::string(io::dtype_name(dtype)) + " " + dims_text(shape); }

inline std::string hexadecimal(std::uint64_t number) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (int shift = 60; shift >= 0; shift -= 4) text += digits[(number >> shift) & 15u];
    return text;
}

inline constexpr std::string_view state_checksum_key = "checksum";

/// Of tensors in the order of their names (names and shapes are compared on reading) and of all metadata but this.
class StateChecksum {
public:
    void add(std::span<const std::byte> bytes) noexcept { sum_ = checksum(bytes.data(), bytes.size(), sum_); }
    std::string text(const io::Metadata& metadata) const {
        std::uint64_t sum = sum_;
        for (const auto& [key, value] : metadata) {
            if (key == state_checksum_key) continue;
            sum = checksum(key.data(), key.size(), sum);
            sum = checksum(value.data(), value.size(), sum);
        }
        return hexadecimal(sum);
    }

private:
    std::uint64_t sum_ = 0;
};

/// Bias and up to eight rows of W, first and last among them: cheap whatever the size, and no two trained bases agree in it.
/// Empty where rows cannot be read.
template <class L> std::string base_digest(const L& base) {
    using T = linear_value_t<L>;
    if constexpr (ReadableLinear<L>) {
        const LayerShape shape = linear_access<L>::shape(base);
        const std::span<const T> bias = linear_access<L>::bias(base);
        std::uint64_t sum = checksum(bias.data(), bias.size_bytes());
        constexpr std::size_t samples = 8;
        const std::size_t count = shape.out < samples ? shape.out : samples;
        for (std::size_t k = 0; k < count; ++k) {
            ArenaScope scope;
            const auto row = scope.template matrix<T>(1, shape.in);
            linear_access<L>::read_rows(base, count == 1 ? 0 : k * (shape.out - 1) / (count - 1), row);
            sum = checksum(row.data(), shape.in * sizeof(T), sum);
        }
        return hexadecimal(sum);
    } else {
        return {};
    }
}

PEFT_ISA_DETAIL_END
