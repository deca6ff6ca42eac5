#pragma once
#include <peft/adapters/low_rank/lora_from_base.hpp>
#include <peft/linalg/randomized_svd.hpp>
#include <peft/linalg/svd.hpp>

#include <charconv>
#include <cmath>
#include <string>

PEFT_ISA_BEGIN

/// The top `rank` singular triplets of W, divided by the scale: B0 = U sqrt(S / s), A0 = sqrt(S / s) V^T.
struct SingularStart {
    static constexpr std::string_view name = "pissa";
    struct Options {
        std::size_t rank = 8;
        double alpha = 8;
        double dropout = 0;          ///< keep it 0: dropping principal directions takes the model apart
        bool rank_stabilized = false;
        bool rebase = false;
        std::size_t iterations = 0;  ///< 0: exact SVD; else a randomized one with so many power iterations, from products with W alone
        std::uint64_t seed = 0;      ///< of dropout
    };

    /// Triplets beyond min(in, out) are zero.
    template <Scalar T>
    static void fill(const BaseView<T>& base, const Options& options, T scale, MatrixView<T> a, MatrixView<T> b) {
        const LayerShape shape = base.shape();
        const std::size_t rank = std::min({options.rank, shape.in, shape.out});
        const Svd<T> top = [&] {
            // One sketch for all layers: whoever loads the factors must find the same start in the same W.
            if (options.iterations != 0) return randomized_svd<T>(base, {.rank = rank, .power_iterations = options.iterations});
            Matrix<T> weight(shape.out, shape.in);
            base.read_rows(0, weight);
            return svd<T>(std::as_const(weight).view(), rank);
        }();
        peft::fill<T>(T(0), a);
        peft::fill<T>(T(0), b);
        for (std::size_t k = 0; k < rank; ++k) {
            const T root = std::sqrt(top.s(0, k) / scale);
            for (std::size_t i = 0; i < shape.in; ++i) a(k, i) = root * top.vt(k, i);
            for (std::size_t o = 0; o < shape.out; ++o) b(o, k) = root * top.u(o, k);
        }
    }

    /// "pissa", or "pissa_niter_N".
    static Value write(const Options& options) {
        if (options.iterations == 0) return Value("pissa");
        return Value(std::string(randomized) + std::to_string(options.iterations));
    }
    static bool names(std::string_view text) { return text == "pissa" || text.starts_with(randomized); }
    static void read(const Value& value, Options& options) {
        const std::string text = value.is_string() ? value.as_string() : std::string();
        options.iterations = 0;
        if (text == "pissa") return;
        const std::string_view digits = std::string_view(text).substr(std::min(randomized.size(), text.size()));
        const auto [end, fault] = std::from_chars(digits.data(), digits.data() + digits.size(), options.iterations);
        if (!text.starts_with(randomized) || fault != std::errc() || end != digits.data() + digits.size() || options.iterations == 0 || options.iterations > 1000) {
            throw FormatError("no such start", {.subject = "init_lora_weights", .expected = "\"pissa\" or \"pissa_niter_N\", N in [1, 1000]", .found = value.describe()});
        }
    }

private:
    static constexpr std::string_view randomized = "pissa_niter_";
};

/// PiSSA: a LoRA that starts at the principal singular triplets of W and trains those; the rest of W stays frozen.
/// W' = W + s (B A - B0 A0). Exact or randomized, see SingularStart and LoRAFromBase for options, errors and the two forms.
/// Source: Meng et al. 2024, arXiv:2404.02948, eqs. 2-4; the fast SVD is its section 4.
template <Scalar T> using PiSSA = LoRAFromBase<T, SingularStart>;

PEFT_ISA_END
