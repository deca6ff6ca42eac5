#pragma once
#include <peft/core/concepts.hpp>
#include <peft/core/function_ref.hpp>
#include <peft/layers/adapted.hpp>
#include <peft/layers/describe.hpp>

#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

PEFT_ISA_BEGIN

/// Any method behind one type: what a bank attaches, and what lets different methods share a container. Costs a virtual
/// call for each hook. Copying copies the method.
template <Scalar T> class AnyAdapter {
public:
    using value_type = T;
    struct Options {};
    struct Cache {
        void* data = nullptr;              ///< the method's own cache, in the arena of the call
    };
    struct Derived {
        std::shared_ptr<void> data;        ///< the method's own derived values
    };
    using RealVisitor = FunctionRef<void(std::string_view, Parameter<T>&, Role, TensorShape)>;
    using IndexVisitor = FunctionRef<void(std::string_view, Parameter<std::int32_t>&, Role, TensorShape)>;

    template <class M>
        requires(!std::is_same_v<std::remove_cvref_t<M>, AnyAdapter> && Adapter<std::remove_cvref_t<M>>)
    AnyAdapter(M&& method) : model_(std::make_unique<Model<std::remove_cvref_t<M>>>(std::forward<M>(method))) {}   // implicit: it stands for any method
    AnyAdapter(const AnyAdapter& other) : model_(other.model_->clone()) {}
    AnyAdapter(AnyAdapter&&) noexcept = default;
    AnyAdapter& operator=(const AnyAdapter& other) { return *this = AnyAdapter(other); }
    AnyAdapter& operator=(AnyAdapter&&) noexcept = default;
    ~AnyAdapter() = default;

    LayerShape shape() const { return model_->shape(); }
    const Options& options() const noexcept { return options_; }
    bool adapts_input() const { return model_->adapts_input(); }
    bool adapts_output() const { return model_->adapts_output(); }
    bool replaces_base() const { return model_->replaces_base(); }
    bool rewrites_output_gradient() const { return model_->rewrites_output_gradient(); }
    bool changes_bias() const { return model_->changes_bias(); }
    bool needs_readable_base() const { return model_->needs_readable_base(); }
    bool wants_rebase() const { return model_->wants_rebase(); }
    PlanPointer<T> rebase_plan() const { return model_->rebase_plan(); }
    Entries<T> entries() const { return model_->entries(); }
    void set_rebased(bool rebased) { model_->set_rebased(rebased); }
    bool knows_rebased(bool rebased) const { return model_->knows_rebased(rebased); }

    void start(const BaseView<T>& base, std::uint64_t stream) { model_->start(base, stream); }
    void derive(const BaseView<T>& base, Derived& derived) const { model_->derive(base, derived.data); }
    void adapt_input(const Call<AnyAdapter>& call, MatrixView<const T> x, MatrixView<T> z) const { model_->adapt_input(call, x, z); }
    void backward_input(const Call<AnyAdapter>& call, MatrixView<const T> x, MatrixView<const T> dz, MatrixView<T> dx) { model_->backward_input(call, x, dz, dx); }
    void adapt_output(const Call<AnyAdapter>& call, MatrixView<const T> x, MatrixView<T> y) const { model_->adapt_output(call, x, y); }
    void backward_output(const Call<AnyAdapter>& call, MatrixView<const T> x, MatrixView<T> dy, MatrixView<T> dx) { model_->backward_output(call, x, dy, dx); }
    /// Throws StateError if the method is no change of the weight.
    PlanPointer<T> plan(const BaseView<T>& base, const Derived& derived) const { return model_->plan(base, derived.data); }

    /// Another number after every write to any tensor.
    std::uint64_t version() const { return model_->version(); }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        const auto handle = [&visit](std::string_view name, auto& tensor, Role role, TensorShape shape) {
            if constexpr (std::is_const_v<Self>) visit(name, std::as_const(tensor), role, shape);
            else visit(name, tensor, role, shape);
        };
        self.model_->visit(RealVisitor(handle), IndexVisitor(handle));
    }

    /// What files say of the method. Throws StateError if it has no format.
    Description<T> describe() { return model_->describe(); }

    /// The method itself if it is an M, else nullptr.
    template <class M> M* get_if() noexcept {
        return model_ != nullptr && model_->kind() == &Model<M>::tag ? &static_cast<Model<M>*>(model_.get())->method : nullptr;
    }
    template <class M> const M* get_if() const noexcept {
        return model_ != nullptr && model_->kind() == &Model<M>::tag ? &static_cast<const Model<M>*>(model_.get())->method : nullptr;
    }

private:
    struct Interface {
        Interface() = default;
        Interface(const Interface&) = default;
        Interface& operator=(const Interface&) = delete;
        virtual ~Interface() = default;
        virtual std::unique_ptr<Interface> clone() const = 0;
        virtual const void* kind() const noexcept = 0;   // instead of dynamic_cast: works with -fno-rtti
        virtual LayerShape shape() const = 0;
        virtual std::uint64_t version() const = 0;
        virtual bool adapts_input() const = 0;
        virtual bool adapts_output() const = 0;
        virtual bool replaces_base() const = 0;
        virtual bool rewrites_output_gradient() const = 0;
        virtual bool changes_bias() const = 0;
        virtual bool needs_readable_base() const = 0;
        virtual bool wants_rebase() const = 0;
        virtual PlanPointer<T> rebase_plan() const = 0;
        virtual Entries<T> entries() const = 0;
        virtual void set_rebased(bool) = 0;
        virtual bool knows_rebased(bool) const = 0;
        virtual void start(const BaseView<T>&, std::uint64_t) = 0;
        virtual void derive(const BaseView<T>&, std::shared_ptr<void>&) const = 0;
        virtual void adapt_input(const Call<AnyAdapter>&, MatrixView<const T>, MatrixView<T>) const = 0;
        virtual void backward_input(const Call<AnyAdapter>&, MatrixView<const T>, MatrixView<const T>, MatrixView<T>) = 0;
        virtual void adapt_output(const Call<AnyAdapter>&, MatrixView<const T>, MatrixView<T>) const = 0;
        virtual void backward_output(const Call<AnyAdapter>&, MatrixView<const T>, MatrixView<T>, MatrixView<T>) = 0;
        virtual PlanPointer<T> plan(const BaseView<T>&, const std::shared_ptr<void>&) const = 0;
        virtual void visit(RealVisitor, IndexVisitor) = 0;
        virtual Description<T> describe() = 0;
    };

    template <class M> struct Model final : Interface {
        static inline char tag = 0;   // its address names M; not const, so that linkers do not fold equal ones
        M method;
        explicit Model(M m) : method(std::move(m)) {}

        std::unique_ptr<Interface> clone() const override { return std::make_unique<Model>(*this); }
        const void* kind() const noexcept override { return &tag; }
        LayerShape shape() const override { return method.shape(); }
        std::uint64_t version() const override { return detail::version_of(method); }
        bool adapts_input() const override { return detail::adapts_input(method); }
        bool adapts_output() const override { return detail::adapts_output(method); }
        bool replaces_base() const override { return detail::replaces_base(method); }
        bool rewrites_output_gradient() const override { return detail::rewrites_output_gradient(method); }
        bool changes_bias() const override { return detail::changes_bias(method); }
        bool needs_readable_base() const override { return detail::reads_base(method); }
        bool wants_rebase() const override {
            if constexpr (detail::Rebasable<M>) return method.wants_rebase();
            else return false;
        }
        PlanPointer<T> rebase_plan() const override { return detail::rebase_plan(method); }
        Entries<T> entries() const override { return detail::entries(method); }
        void set_rebased(bool rebased) override {
            if constexpr (detail::Rebasable<M>) method.set_rebased(rebased);
            else static_cast<void>(rebased);
        }
        bool knows_rebased(bool rebased) const override {
            if constexpr (detail::Rebasable<M>) return method.knows_rebased(rebased);
            else return static_cast<void>(rebased), true;
        }
        void start(const BaseView<T>& base, std::uint64_t stream) override {
            if constexpr (requires { method.start(base, stream); }) method.start(base, stream);
        }
        void derive(const BaseView<T>& base, std::shared_ptr<void>& derived) const override {
            if constexpr (detail::HasDerived<M>) {
                if (derived == nullptr) derived = std::make_shared<derived_t<M>>();
                method.derive(base, *static_cast<derived_t<M>*>(derived.get()));
            }
        }
        void adapt_input(const Call<AnyAdapter>& call, MatrixView<const T> x, MatrixView<T> z) const override {
            if constexpr (InputAdapter<M>) method.adapt_input(own(call), x, z);
        }
        void backward_input(const Call<AnyAdapter>& call, MatrixView<const T> x, MatrixView<const T> dz, MatrixView<T> dx) override {
            if constexpr (InputAdapter<M>) method.backward_input(own(call), x, dz, dx);
        }
        void adapt_output(const Call<AnyAdapter>& call, MatrixView<const T> x, MatrixView<T> y) const override {
            if constexpr (OutputAdapter<M>) method.adapt_output(own(call), x, y);
        }
        void backward_output(const Call<AnyAdapter>& call, MatrixView<const T> x, MatrixView<T> dy, MatrixView<T> dx) override {
            if constexpr (OutputAdapter<M>) method.backward_output(own(call), x, dy, dx);
        }
        PlanPointer<T> plan(const BaseView<T>& base, const std::shared_ptr<void>& derived) const override {
            if constexpr (Mergeable<M>) return method.plan(base, own(derived));
            else throw StateError("this method is no change of the weight and cannot be merged", {.subject = "plan"});
        }
        void visit(RealVisitor real, IndexVisitor index) override {
            M::each_tensor(method, [&]<class P>(std::string_view name, P& tensor, Role role, TensorShape shape = {}) {
                if constexpr (std::is_same_v<typename P::value_type, T>) real(name, tensor, role, shape);
                else index(name, tensor, role, shape);
            });
        }

        Description<T> describe() override {
            if constexpr (detail::HasFormat<M>) return detail::describe(method);
            else throw StateError("this method has no file format (no hf_format)", {.subject = "describe"});
        }

        static const derived_t<M>& own(const std::shared_ptr<void>& derived) noexcept {
            if constexpr (detail::HasDerived<M>) {
                return *static_cast<const derived_t<M>*>(derived.get());
            } else {
                static constexpr detail::Nothing nothing{};
                return nothing;
            }
        }
        static Call<M> own(const Call<AnyAdapter>& call) {
            using C = cache_t<M>;
            static_assert(std::is_trivially_destructible_v<C>, "a cache is a struct of views");
            if (call.cache.data == nullptr) call.cache.data = ::new (call.keep.allocate(sizeof(C))) C{};
            return {call.base, call.scratch, call.keep, *static_cast<C*>(call.cache.data), own(call.derived.data), call.stream, call.step, call.training};
        }
    };

    Options options_;
    std::unique_ptr<Interface> model_;
};

PEFT_ISA_END
