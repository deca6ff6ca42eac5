#pragma once
#include <peft/core/concepts.hpp>
#include <peft/core/hf_format.hpp>
#include <peft/forms/small_weights.hpp>
#include <peft/forms/sparse.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <utility>

PEFT_BEGIN

/// How many weights a layer trains, of how many.
struct SelectionReport {
    std::size_t selected = 0;
    std::size_t total = 0;
    double threshold = 0;   ///< 0 where a share was asked for
    double smallest = std::numeric_limits<double>::quiet_NaN();   ///< smallest |W|; NaN where the selection came from a file
};

PEFT_END

PEFT_ISA_BEGIN

/// SaRA: W' = W + S, where S has trained numbers at the positions of the smallest |W| and nothing elsewhere: weights that
/// hardly contribute are used again. S starts at zero, so a fresh adapter changes nothing.
/// Selected are the weights with |W| < threshold, strictly: one absolute threshold for all layers. With share > 0 instead the
/// round(share * in * out) smallest of each layer; among equal ones those that come first, row by row. The selection is made
/// by adapt, from the rows of the base, unless positions were loaded. Few passes over W, no copy of it.
/// A layer with no weight selected, or with all, is legal; see selection() and expect_selection().
/// in_place: the layer writes W + S into the base whenever S changes, and keeps the original numbers;
/// layer.restore_base() writes them back, bit for bit, and goes on beside the base. The base must be writable and this layer's
/// alone, else StateError; in bf16 or f16 what is written is rounded, S itself is not.
/// Parameters changed: call prepare() before inference. Throws OptionError when the threshold is not positive and finite or
/// the share outside [0, 1], ShapeError beyond 2^31 weights, StateError when the base cannot be read.
/// Trains as many numbers as are selected. The nuclear-norm loss of the paper is not part of the method.
/// Source: Hu et al. 2024, arXiv:2409.06633, sections 3.1 and 3.2. Its code trains the weights themselves and starts them
/// from |W|, which loses their signs; here the differences from W are trained.
template <Scalar T> class SaRA {
public:
    using value_type = T;
    struct Options {
        double threshold = 2e-3;   ///< the paper's
        double share = 0;
        bool in_place = false;     ///< the base itself holds W + S: forward costs the base's product alone
    };
    struct Derived {
        Matrix<std::int32_t> starts;             ///< of the rows among the positions
        std::shared_ptr<const void> positions;   ///< whose they are; held, so that no others get the address
        std::uint64_t version = 0;               ///< of the positions
    };

    explicit SaRA(LayerShape shape, const Options& options = {}) : options_(options), shape_(shape) {
        if (!(options.share >= 0 && options.share <= 1)) {
            throw OptionError("not a share", {.subject = "sara: share", .expected = "a number in [0, 1]", .found = detail::to_text(options.share)});
        }
        if (!(options.threshold > 0 && is_finite(options.threshold))) {
            throw OptionError("not a magnitude", {.subject = "sara: threshold", .expected = "a positive finite number", .found = detail::to_text(options.threshold)});
        }
        sparse::expect_addressable(shape);
    }

    LayerShape shape() const noexcept { return shape_; }
    const Options& options() const noexcept { return options_; }
    /// What was selected; known once the method is on a layer.
    SelectionReport selection() const noexcept { return {indices_.size(), shape_.in * shape_.out, options_.share > 0 ? 0.0 : options_.threshold, smallest_}; }
    /// row * in + column of each trained number, rising.
    std::span<const std::int32_t> positions() const noexcept { return indices_.flat(); }
    Parameter<T>& values() noexcept { return values_; }
    const Parameter<T>& values() const noexcept { return values_; }

    /// Makes room for `count` positions and numbers, to be assigned: what a file holds.
    void resize(std::size_t count) {
        values_ = Parameter<T>(1, count);
        indices_ = Parameter<std::int32_t>(1, count);
    }

    /// Selects, unless positions were assigned. Called by adapt.
    void start(const BaseView<T>& base, std::uint64_t) {
        if (indices_.version() != 0) return;
        const auto size = static_cast<double>(shape_.in * shape_.out);
        const auto found = sparse::select<T>(base, options_.share > 0 ? sparse::smallest_weights<T>(base, static_cast<std::size_t>(std::round(options_.share * size)))
                                                                      : sparse::below_threshold<T>(options_.threshold));
        resize(found.indices.size());
        indices_.assign(found.indices.view());
        smallest_ = static_cast<double>(found.smallest);
    }

    bool wants_rebase() const noexcept { return options_.in_place; }
    /// Called by the layer when the base has become this method's, or the original one again.
    void set_rebased(bool rebased) noexcept { in_base_ = rebased; }
    bool knows_rebased(bool rebased) const noexcept { return in_base_ == rebased; }
    Entries<T> entries() const noexcept { return {indices_.flat(), values_.flat()}; }

    void derive(const BaseView<T>&, Derived& derived) const {
        if (!derived.starts.empty() && derived.positions == indices_.state() && derived.version == indices_.version()) return;
        if (values_.size() != indices_.size()) {
            throw StateError("each position needs a number", {.subject = "sara: sara_values", .expected = std::to_string(indices_.size()), .found = std::to_string(values_.size())});
        }
        derived.starts = sparse::row_starts(shape_, indices_.flat());
        derived.positions = indices_.state();
        derived.version = indices_.version();
    }

    void adapt_output(const Call<SaRA>& call, MatrixView<const T> x, MatrixView<T> y) const {
        if (!in_base_) sparse::forward(delta(call.derived), x, y);
    }
    void backward_output(const Call<SaRA>& call, MatrixView<const T> x, MatrixView<const T> dy, MatrixView<T> dx) {
        const sparse::Delta<T> s = delta(call.derived);
        if (in_base_) sparse_value_gradient<T>(s.pattern, s.scale, dy, x, values_.state()->grad.flat());   // dx is the base's
        else sparse::backward(s, values_.state()->grad.flat(), x, dy, dx);
    }
    PlanPointer<T> plan(const BaseView<T>&, const Derived& derived) const {
        sparse::Delta<T> s = delta(derived);
        if (in_base_) s.scale = 0;
        return std::make_shared<sparse::Plan<T>>(shape_, s, "sara_values");
    }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        visit("sara_values", self.values_, Role::trained, TensorShape::of(self.values_.size()));
        visit("sara_indices", self.indices_, Role::index, TensorShape::of(self.indices_.size()));
    }

private:
    sparse::Delta<T> delta(const Derived& derived) const noexcept { return {{shape_.in, derived.starts.flat(), indices_.flat()}, values_.flat(), T(1)}; }

    Options options_;
    LayerShape shape_;
    Parameter<T> values_;
    Parameter<std::int32_t> indices_;
    bool in_base_ = false;
    double smallest_ = std::numeric_limits<double>::quiet_NaN();
};

/// The selections of a model in one. Throws OptionError when nothing at all is selected, naming the threshold and the
/// smallest |W| of the layers.
inline SelectionReport expect_selection(std::span<const SelectionReport> layers) {
    SelectionReport sum;
    for (const SelectionReport& layer : layers) {
        sum.selected += layer.selected;
        sum.total += layer.total;
        sum.threshold = sum.threshold < layer.threshold ? layer.threshold : sum.threshold;
        if (is_finite(layer.smallest) && !(is_finite(sum.smallest) && sum.smallest <= layer.smallest)) sum.smallest = layer.smallest;
    }
    if (sum.selected != 0) return sum;
    throw OptionError("no weight of the model is selected", {.subject = "sara: threshold, share", .expected = "at least 1 of " + std::to_string(sum.total) + " weights",
                      .found = "0 at the threshold " + detail::to_text(sum.threshold) + ", the smallest |W| being " + detail::to_text(sum.smallest)});
}
/// The same of layers of SaRA.
template <class... Layers>
    requires(sizeof...(Layers) != 0)
SelectionReport expect_selection(const Layers&... layers) {
    const std::array<SelectionReport, sizeof...(Layers)> reports{layers.method().selection()...};
    return expect_selection(std::span<const SelectionReport>(reports));
}

PEFT_ISA_END

PEFT_BEGIN

template <Scalar T> struct hf_format<SaRA<T>> {
    using O = typename SaRA<T>::Options;
    static constexpr std::string_view peft_type = "X_SARA";
    static constexpr std::array keys{TensorKey{"sara_values", "sara_values"}, TensorKey{"sara_indices", "sara_indices"}};
    static constexpr std::tuple fields{ConfigField{"threshold", &O::threshold}, ConfigField{"share", &O::share}};
    /// As many numbers as positions.
    static constexpr std::string_view length_of = "sara_indices";
    template <class Context> static void check(const SaRA<T>& method, const Context& context) {
        const std::string fault = sparse::position_fault(method.shape(), method.positions());
        if (fault.empty()) return;
        context.refuse_tensor("sara_indices", "positions must rise and lie in the layer",
                              {.expected = "each once, below " + std::to_string(method.shape().in * method.shape().out), .found = fault});
    }
};

PEFT_END
