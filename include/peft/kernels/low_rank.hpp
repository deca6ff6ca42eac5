#pragma once
#include <peft/core/random.hpp>
#include <peft/kernels/matmul.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

PEFT_ISA_BEGIN

/// Inverted dropout mask of the input of an adapter branch, never stored: element (i, j) of a row-major n x in matrix is
/// kept, and scaled by 1 / (1 - p), if CounterRandom(key).bits(i * in + j) >= threshold().
/// Probabilities are rounded to multiples of 2^-32; p lies in [0, 1).
struct DropoutMask {
    StreamKey key{};
    double probability = 0;

    PEFT_INLINE bool active() const noexcept { return probability > 0; }
    std::uint32_t threshold() const noexcept {
        const double scaled = probability * 0x1p32 + 0.5;
        return scaled >= 0x1p32 ? 0xffffffffu : static_cast<std::uint32_t>(scaled);
    }
    double scale() const noexcept { return 1 / (1 - probability); }
};

/// u (n x rank) = (x . mask) * A^T, x (n x in), A (rank x in).
template <Scalar T>
void low_rank_down(std::type_identity_t<MatrixView<const T>> x, const DropoutMask& mask, std::type_identity_t<MatrixView<const T>> a,
                   MatrixView<T> u) {
    if (!mask.active()) return multiply_nt<T, T>(x, a, u);
    const CounterRandom random(mask.key);
    const auto keep = static_cast<T>(mask.scale());
    for (std::size_t i = 0; i < u.rows(); ++i)
        for (std::size_t r = 0; r < u.cols(); ++r) {
            T sum = 0;
            for (std::size_t j = 0; j < x.cols(); ++j)
                sum += (random.bits(i * x.cols() + j) >= mask.threshold() ? x(i, j) * keep : T{0}) * a(r, j);
            u(i, r) = sum;
        }
}

/// y += scale * u * B^T, u (n x rank), B (out x rank), y (n x out).
template <Scalar T>
void low_rank_up(std::type_identity_t<MatrixView<const T>> u, std::type_identity_t<MatrixView<const T>> b, std::type_identity_t<T> scale,
                 MatrixView<T> y) {
    multiply_nt<T, T>(u, b, y, {.scale = scale, .accumulate = true});
}

/// da (rank x in) += h^T * (x . mask), h (n x rank), x (n x in).
template <Scalar T>
void low_rank_down_gradient(std::type_identity_t<MatrixView<const T>> h, std::type_identity_t<MatrixView<const T>> x,
                            const DropoutMask& mask, MatrixView<T> da) {
    if (!mask.active()) return multiply_tn<T>(h, x, da, {.accumulate = true});
    const CounterRandom random(mask.key);
    const auto keep = static_cast<T>(mask.scale());
    for (std::size_t i = 0; i < x.rows(); ++i)
        for (std::size_t j = 0; j < x.cols(); ++j) {
            const T value = random.bits(i * x.cols() + j) >= mask.threshold() ? x(i, j) * keep : T{0};
            for (std::size_t r = 0; r < da.rows(); ++r) da(r, j) += h(i, r) * value;
        }
}

/// dx (n x in) += (h * A) . mask, h (n x rank), A (rank x in).
template <Scalar T>
void low_rank_down_input_gradient(std::type_identity_t<MatrixView<const T>> h, std::type_identity_t<MatrixView<const T>> a,
                                  const DropoutMask& mask, MatrixView<T> dx) {
    if (!mask.active()) return multiply_nn<T, T>(h, a, dx, {.accumulate = true});
    const CounterRandom random(mask.key);
    const auto keep = static_cast<T>(mask.scale());
    for (std::size_t i = 0; i < dx.rows(); ++i)
        for (std::size_t j = 0; j < dx.cols(); ++j) {
            T sum = 0;
            for (std::size_t r = 0; r < a.rows(); ++r) sum += h(i, r) * a(r, j);
            if (random.bits(i * dx.cols() + j) >= mask.threshold()) dx(i, j) += keep * sum;
        }
}

PEFT_ISA_END
