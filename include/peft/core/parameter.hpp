#pragma once
#include <peft/core/matrix.hpp>
#include <peft/core/scalar.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

PEFT_BEGIN

/// What a tensor of a method is for.
enum class Role {
    trained,   ///< has a gradient, an optimizer steps it, files hold it
    frozen,    ///< belongs to the method, files hold it
    shared,    ///< belongs to the model, several layers read it, files hold it once
    index,     ///< positions, not numbers
    rebuilt,   ///< frozen, and made again from the base or a seed: adapter files leave it out, training states hold it
};

/// Shape of a tensor on disk, at most four dimensions. rank 0 means: as the matrix is in memory.
struct TensorShape {
    std::array<std::size_t, 4> extent{};
    std::size_t rank = 0;
    friend bool operator==(const TensorShape&, const TensorShape&) = default;

    static TensorShape of(std::size_t a) { return {{a, 0, 0, 0}, 1}; }
    static TensorShape of(std::size_t a, std::size_t b) { return {{a, b, 0, 0}, 2}; }
    static TensorShape of(std::size_t a, std::size_t b, std::size_t c) { return {{a, b, c, 0}, 3}; }
};

namespace detail {
inline std::string shape_text(const TensorShape& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape.extent[i]);
    return text + "]";
}
}  // namespace detail

/// A named tensor's numbers, their gradient and a version that every write through the library raises.
/// The state lives on the heap: references to it stay valid when the layer that holds the parameter moves.
/// Vectors are matrices of one row. Copying copies the numbers, not the gradient.
template <class T> class Parameter {
public:
    using value_type = T;
    struct State {
        Matrix<T> value;
        Matrix<T> grad;              ///< empty until require_grad()
        std::uint64_t version = 0;   ///< 0: never written
    };

    Parameter() : state_(std::make_shared<State>()) {}
    Parameter(std::size_t rows, std::size_t cols) : Parameter() { state_->value = Matrix<T>(rows, cols); }
    Parameter(const Parameter& other) : Parameter() {
        state_->value = other.state_->value;
        state_->version = other.state_->version;
    }
    Parameter(Parameter&&) noexcept = default;
    Parameter& operator=(const Parameter& other) { return *this = Parameter(other); }
    Parameter& operator=(Parameter&&) noexcept = default;
    ~Parameter() = default;

    MatrixView<const T> value() const noexcept { return std::as_const(state_->value).view(); }
    /// A raw view: writes through it go unseen, call touch() after them.
    MatrixView<T> value() noexcept { return state_->value.view(); }
    MatrixView<const T> grad() const noexcept { return std::as_const(state_->grad).view(); }
    MatrixView<T> grad() noexcept { return state_->grad.view(); }
    std::span<const T> flat() const noexcept { return std::as_const(state_->value).flat(); }

    std::size_t rows() const noexcept { return state_->value.rows(); }
    std::size_t cols() const noexcept { return state_->value.cols(); }
    std::size_t size() const noexcept { return state_->value.size(); }
    std::uint64_t version() const noexcept { return state_->version; }
    void touch() noexcept { ++state_->version; }

    /// Overwrites the numbers. Throws ShapeError if the shapes differ.
    void assign(MatrixView<const T> values) {
        state_->value.copy_from(values);
        touch();
    }
    /// Makes the gradient exist (zero at first); training needs it, inference does not.
    void require_grad() {
        if (state_->grad.size() != size()) state_->grad = Matrix<T>(rows(), cols());
    }
    /// For those who keep a parameter alive beside its layer (banks, optimizers).
    const std::shared_ptr<State>& state() const noexcept { return state_; }

private:
    std::shared_ptr<State> state_;
};

/// What an optimizer sees of a trained tensor.
template <Scalar T> struct ParameterRef {
    std::string name;
    std::shared_ptr<typename Parameter<T>::State> state;
    bool vector = false;   ///< one dimension where files hold it: a bias, a magnitude

    std::span<T> value() const noexcept { return state->value.flat(); }
    std::span<T> grad() const noexcept { return state->grad.flat(); }
    std::size_t size() const noexcept { return state->value.size(); }
    void touch() const noexcept { ++state->version; }
};

template <Scalar T> using ParameterList = std::vector<ParameterRef<T>>;

/// Numbers of a layer by what happens to them.
struct ParameterCount {
    std::size_t trained = 0;
    std::size_t frozen = 0;
    std::size_t total() const noexcept { return trained + frozen; }
    /// trained / total
    double share() const noexcept { return total() == 0 ? 0.0 : static_cast<double>(trained) / static_cast<double>(total()); }
    ParameterCount& operator+=(const ParameterCount& other) noexcept {
        trained += other.trained;
        frozen += other.frozen;
        return *this;
    }
};

/// The trained tensors of a layer or method, gradients made ready. Several objects: in the order given.
template <class Object>
    requires requires(Object& object) { object.parameters(); }
auto parameters(Object& object) {
    return object.parameters();
}
template <class First, class Second, class... Rest> auto parameters(First& first, Second& second, Rest&... rest) {
    auto list = parameters(first);
    auto tail = parameters(second, rest...);
    list.insert(list.end(), std::make_move_iterator(tail.begin()), std::make_move_iterator(tail.end()));
    return list;
}

/// How many numbers of a layer are trained, and how many there are.
template <class Object>
    requires requires(const Object& object) { object.parameter_count(); }
ParameterCount parameter_count(const Object& object) {
    return object.parameter_count();
}

namespace detail {

/// parameters() of anything that has each_tensor.
template <Scalar T, class Method> void append_parameters(Method& method, const std::string& prefix, ParameterList<T>& list) {
    Method::each_tensor(method, [&]<class P>(std::string_view name, P& tensor, Role role, TensorShape shape = {}) {
        if constexpr (std::is_same_v<typename P::value_type, T>) {
            if (role != Role::trained) return;
            tensor.require_grad();
            list.push_back({prefix + std::string(name), tensor.state(), shape.rank == 1});
        }
    });
}

template <class Method> ParameterCount count_parameters(const Method& method) {
    ParameterCount count;
    Method::each_tensor(method, [&](std::string_view, const auto& tensor, Role role, TensorShape = {}) {
        if (role == Role::trained) count.trained += tensor.size();
        else if (role == Role::frozen || role == Role::rebuilt) count.frozen += tensor.size();
    });
    return count;
}

/// Another number after every write to any tensor of the method, and for a method whose tensors are others: versions alone
/// are the same in two methods that were written to as often. Never 0. A method that makes names on the fly gives its own
/// version(), since inference asks each time and may not allocate.
template <class Method> std::uint64_t version_of(const Method& method) {
    if constexpr (requires { method.version(); }) return method.version();
    std::uint64_t version = 1;
    Method::each_tensor(method, [&](std::string_view, const auto& tensor, Role, TensorShape = {}) {
        constexpr std::uint64_t odd = 0x9e3779b97f4a7c15ull;
        version = (version ^ reinterpret_cast<std::uintptr_t>(tensor.state().get())) * odd + tensor.version();
    });
    return version == 0 ? 1 : version;
}

}  // namespace detail

PEFT_END
