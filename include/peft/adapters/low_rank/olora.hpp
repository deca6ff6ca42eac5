#pragma once
#include <peft/adapters/low_rank/lora_from_base.hpp>
#include <peft/linalg/qr.hpp>

PEFT_ISA_BEGIN

/// The first `rank` columns of Q and rows of R of W = Q R: B0 orthonormal, not divided by the scale.
struct OrthonormalStart {
    static constexpr std::string_view name = "olora";
    struct Options {
        std::size_t rank = 8;
        double alpha = 8;
        double dropout = 0;
        bool rank_stabilized = false;
        bool rebase = false;
        std::uint64_t seed = 0;   ///< of dropout
    };

    /// What lies beyond min(in, out) is zero.
    template <Scalar T> static void fill(const BaseView<T>& base, const Options& options, T, MatrixView<T> a, MatrixView<T> b) {
        const LayerShape shape = base.shape();
        const std::size_t rank = std::min({options.rank, shape.in, shape.out});
        Matrix<T> weight(shape.out, shape.in);
        base.read_rows(0, weight);
        const Qr<T> parts = qr<T>(std::as_const(weight).view());
        peft::fill<T>(T(0), a);
        peft::fill<T>(T(0), b);
        for (std::size_t k = 0; k < rank; ++k) {
            for (std::size_t i = 0; i < shape.in; ++i) a(k, i) = parts.r(k, i);
            for (std::size_t o = 0; o < shape.out; ++o) b(o, k) = parts.q(o, k);
        }
    }

    static Value write(const Options&) { return Value("olora"); }
    static bool names(std::string_view text) { return text == "olora"; }
    static void read(const Value&, Options&) {}
};

/// OLoRA: a LoRA that starts at the leading part of the QR decomposition of W. W' = W + s (B A - B0 A0), B0 = Q[:, :r],
/// A0 = R[:r]; s stays outside the start, as in the official code. See LoRAFromBase for options, errors and the two forms.
/// Source: Buyukakyuz 2024, arXiv:2406.01775, algorithm 1.
template <Scalar T> using OLoRA = LoRAFromBase<T, OrthonormalStart>;

PEFT_ISA_END
