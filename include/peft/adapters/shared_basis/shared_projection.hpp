#pragma once
#include <peft/core/parameter.hpp>
#include <peft/core/shape.hpp>
#include <peft/core/torch_random.hpp>

#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>

PEFT_ISA_BEGIN

/// Two frozen random matrices that the adapters of a whole model read: A (rank x largest in), B (largest out x rank). A layer
/// takes the first `in` columns of A and the first `out` rows of B. Held by shared_ptr, saved once.
template <Scalar T> struct SharedProjection {
    Parameter<T> a;
    Parameter<T> b;
    std::optional<std::uint64_t> seed;   ///< none where the matrices were given

    std::size_t rank() const noexcept { return a.rows(); }
    LayerShape largest() const noexcept { return {a.cols(), b.rows()}; }

    /// From given matrices. Throws ShapeError when their ranks differ.
    static std::shared_ptr<SharedProjection> of(MatrixView<const T> a, MatrixView<const T> b) {
        expect_shape("projection: B", b.rows(), b.cols(), b.rows(), a.rows());
        auto result = make(a.rows(), {a.cols(), b.rows()});
        result->a.assign(a);
        result->b.assign(b);
        return result;
    }
    /// Kaiming-uniform with gain sqrt(2), U(-sqrt(6 / cols), sqrt(6 / cols)), A before B from PyTorch's stream: the numbers that
    /// Hugging Face PEFT makes for projection_prng_key = seed, bit for bit.
    static std::shared_ptr<SharedProjection> seeded(std::size_t rank, LayerShape largest, std::uint64_t seed) {
        auto result = make(rank, largest);
        result->seed = seed;
        TorchRandom random(seed);
        for (Parameter<T>* matrix : {&result->a, &result->b}) {
            Matrix<float> drawn(matrix->rows(), matrix->cols());
            const double deviation = std::sqrt(2.0) / std::sqrt(static_cast<double>(drawn.cols()));
            random.uniform(std::sqrt(3.0) * deviation, drawn.flat());
            for (std::size_t i = 0; i < drawn.size(); ++i) matrix->value().data()[i] = static_cast<T>(drawn.data()[i]);
            matrix->touch();
        }
        return result;
    }

private:
    static std::shared_ptr<SharedProjection> make(std::size_t rank, LayerShape largest) {
        auto result = std::make_shared<SharedProjection>();
        result->a = Parameter<T>(rank, largest.in);
        result->b = Parameter<T>(largest.out, rank);
        return result;
    }
};

PEFT_ISA_END
