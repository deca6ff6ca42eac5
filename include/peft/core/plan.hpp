#pragma once
#include <peft/core/matrix.hpp>
#include <peft/core/scalar.hpp>

#include <memory>
#include <span>
#include <string>

PEFT_BEGIN

/// What a plan does to the bias.
enum class BiasChange {
    none,
    scales,   ///< nothing to do where the base has none
    adds,     ///< a base without one gets a zero bias, or refuses
};

/// A self-contained description of the change a method makes to the weight (out x in) and the bias (out): a snapshot,
/// so the method may be trained or destroyed while merged. Rows are handled in blocks:
///   prepare(first, work)        fills scratch of the rows' shape (the delta, for additive plans)
///   apply(first, work, rows)    W -> W'
///   revert(first, work, rows)   W' -> nearly W: what is missing is rounding, and the merge journal holds it
/// The three are pure functions of the plan and their arguments. They are virtual on purpose: whoever unmerges calls
/// the code of the translation unit that merged, whatever flags it was compiled with.
template <Scalar T> class MergePlan {
public:
    MergePlan() = default;
    MergePlan(const MergePlan&) = delete;
    MergePlan& operator=(const MergePlan&) = delete;
    virtual ~MergePlan() = default;

    virtual LayerShape shape() const noexcept = 0;
    /// Name of the first tensor that holds NaN or infinity, nullptr if all are finite.
    virtual const char* non_finite() const noexcept = 0;
    virtual void prepare(std::size_t first, MatrixView<T> work) const = 0;
    /// False if row `first + i` stays as it is, bit for bit: its bytes are then neither read nor written.
    virtual bool touches(std::size_t first, MatrixView<const T> work, std::size_t i) const noexcept = 0;
    virtual void apply(std::size_t first, MatrixView<const T> work, MatrixView<T> rows) const = 0;
    virtual void revert(std::size_t first, MatrixView<const T> work, MatrixView<T> rows) const = 0;
    /// True if apply is W + work: the merge report can then measure rounding in double.
    virtual bool additive() const noexcept { return false; }
    virtual BiasChange bias_change() const noexcept { return BiasChange::none; }
    virtual void apply_bias(std::span<T> bias) const { static_cast<void>(bias); }
};

template <Scalar T> using PlanPointer = std::shared_ptr<const MergePlan<T>>;

PEFT_END
