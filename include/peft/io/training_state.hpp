#pragma once
#include <peft/io/training_state_parts.hpp>
#include <peft/optim/schedule.hpp>

#include <algorithm>
#include <concepts>
#include <map>

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// An optimizer whose state can be saved: AdamW, SGD, or any type that
///   1. names its kind and its options, each_option(options, visit(name, value));
///   2. gives parameters(), groups() and group_of(i), steps() and learning_rate();
///   3. gives what it keeps for each parameter, each_moment(visit(i, name, span)), in memory that stays where it is;
///   4. takes steps and learning rate back, restore(steps, learning_rate), without throwing.
template <class O, class T>
concept StatefulOptimizer = std::same_as<typename O::value_type, T> && requires(O& optimizer, const O& constant) {
    { O::kind } -> std::convertible_to<std::string_view>;
    { constant.steps() } -> std::same_as<std::uint64_t>;
    { constant.learning_rate() } -> std::same_as<double>;
    constant.parameters();
    constant.groups();
    constant.group_of(std::size_t{});
    constant.options();
    optimizer.restore(std::uint64_t{}, 0.0);
};

/// Everything that a training run needs to go on as if it had never stopped: what to save, and where to load it to. Each
/// object is added once, under a name of its own; they must stay where they are and live longer than this.
///   TrainingState<float> state;
///   state.add("fc1", layer, tape);   state.add("optimizer", optimizer);   state.cursor("step", step);
///   if (resuming) load_training_state("run.state", state);
///   for (; step < total;) { ...; optimizer.step(); optimizer.zero_grad(); ++step; save_training_state("run.state", state); }
/// Saved are all tensors of the layers (frozen and index too), moments, steps and learning rates of optimizers, steps of
/// tapes, and cursors. Held against what is there on loading: shapes, streams, the configuration and seed of each method (of
/// one with a file format), samples of the base, options, groups and order of parameters of optimizers, schedules. Not saved:
/// the base, and gradients, which are zero after loading; save and load between steps.
template <Scalar T> class TrainingState {
public:
    /// A layer, with the tapes that train it. Throws OptionError when the name is taken, StateError when it is merged (here,
    /// not later: what is seen of the base is seen now).
    template <class Base, class Method, class... Tapes> void add(std::string_view module, Adapted<Base, Method>& layer, Tapes&... tapes) {
        static_assert((std::is_same_v<Tapes, typename Adapted<Base, Method>::Tape> && ...), "peft: these are not tapes of this layer");
        const std::string prefix = "layer/" + std::string(module) + "/";
        if (layer.merged()) throw StateError("the layer is merged; unmerge it before training", {.subject = std::string(module)});
        fact(prefix + "shape", detail::shape_text(layer.shape().out, layer.shape().in));
        append_layer(prefix, layer);
        std::size_t number = 0;
        (..., append_tape(prefix + "tape/" + std::to_string(number++) + "/", tapes));
    }
    /// A parameter outside of layers, an embedding for example.
    void add(std::string_view name, Parameter<T>& parameter) { append("parameter/" + std::string(name), parameter); }
    /// An optimizer. What it trains must be added too, before or after it.
    template <class O>
        requires StatefulOptimizer<O, T>
    void add(std::string_view name, O& optimizer) {
        const std::string prefix = "optimizer/" + std::string(name) + "/";
        fact(prefix + "kind", std::string(O::kind));
        O::each_option(optimizer.options(), [&](std::string_view option, auto value) { fact(prefix + "option/" + std::string(option), detail::to_text(value)); });
        std::size_t number = 0;
        for (const auto& group : optimizer.groups()) {
            const std::string key = prefix + "group/" + std::to_string(number++) + "/";
            fact(key + "learning_rate_factor", detail::to_text(group.learning_rate_factor));
            fact(key + "weight_decay", group.weight_decay ? detail::to_text(*group.weight_decay) : std::string("of the optimizer"));
        }
        const std::size_t first = moments_.size();
        for (std::size_t i = 0; i < optimizer.parameters().size(); ++i) {
            const auto& parameter = optimizer.parameters()[i];
            moments_.push_back({parameter.state.get(), std::string(name), parameter.name,
                                "number " + std::to_string(i) + ", group " + std::to_string(optimizer.group_of(i)), {}});
        }
        optimizer.each_moment([&]<class U>(std::size_t i, std::string_view moment, std::span<U> numbers) {
            moments_[first + i].moments.push_back({moment, dtype_of<U>(), std::as_writable_bytes(numbers)});
        });
        running({prefix + "steps", &optimizer, false, [](const void* o) noexcept { return static_cast<const O*>(o)->steps(); },
                 [](void* o, std::uint64_t value) noexcept { static_cast<O*>(o)->restore(value, static_cast<O*>(o)->learning_rate()); }});
        running({prefix + "learning_rate", &optimizer, true,
                 [](const void* o) noexcept { return std::bit_cast<std::uint64_t>(static_cast<const O*>(o)->learning_rate()); },
                 [](void* o, std::uint64_t value) noexcept { static_cast<O*>(o)->restore(static_cast<O*>(o)->steps(), std::bit_cast<double>(value)); }});
    }
    /// A schedule, to be refused when it is another one on loading. Where it stands is a cursor.
    void add(std::string_view name, const Schedule& schedule) {
        const std::string prefix = "schedule/" + std::string(name) + "/";
        constexpr std::array<std::string_view, 3> kinds{"constant", "linear", "cosine"};
        fact(prefix + "kind", std::string(kinds[static_cast<std::size_t>(schedule.kind)]));
        fact(prefix + "peak", detail::to_text(schedule.peak));
        fact(prefix + "warmup", std::to_string(schedule.warmup));
        fact(prefix + "total", std::to_string(schedule.total));
        fact(prefix + "floor", detail::to_text(schedule.floor));
    }
    /// A number of the caller's that loading brings back: the next step, epoch, place in the data. Saved as it is then, so
    /// count it up before saving.
    void cursor(std::string_view name, std::uint64_t& value) {
        running({"cursor/" + std::string(name), &value, false, [](const void* v) noexcept { return *static_cast<const std::uint64_t*>(v); },
                 [](void* v, std::uint64_t read) noexcept { *static_cast<std::uint64_t*>(v) = read; }});
    }
    /// A number that must be the same on loading, a seed of the data for example.
    void constant(std::string_view name, std::uint64_t value) { fact("constant/" + std::string(name), std::to_string(value)); }

private:
    template <Scalar U> friend void save_training_state(const std::string& path, const TrainingState<U>& state);
    template <Scalar U> friend void load_training_state(const std::string& path, TrainingState<U>& state);

    [[noreturn]] static void taken(std::string name) { throw OptionError("the training state has something of this name already", {.subject = std::move(name)}); }
    void fact(const std::string& key, std::string text) {
        if (!facts_.emplace(key, std::move(text)).second) taken(key);
    }
    void running(detail::StateNumber entry) {
        for (const detail::StateNumber& other : numbers_) {
            if (other.key == entry.key) taken(entry.key);
        }
        numbers_.push_back(std::move(entry));
    }
    template <class U> void append(std::string name, const Parameter<U>& parameter) {
        for (const detail::StateTensor& other : tensors_) {
            if (other.owner == parameter.state()) return;   // shared by several layers
            if (other.name == name) taken(name);
        }
        tensors_.push_back(detail::state_tensor(std::move(name), parameter));
    }
    template <class Base, class Method> void append_layer(const std::string& prefix, Adapted<Base, Method>& layer) {
        fact(prefix + "stream", std::to_string(layer.stream()));
        if constexpr (detail::is_adapted_v<typename Adapted<Base, Method>::BaseType>) append_layer(prefix + "base/", layer.base());
        else fact(prefix + "base", detail::base_digest(layer.base()));
        std::size_t number = 0;
        append_options(prefix + "method/", layer.method(), number);
        Method::each_tensor(layer.method(), [&](std::string_view name, auto& tensor, Role, TensorShape = {}) { append(prefix + std::string(name), tensor); });
    }
    template <class Tape> void append_tape(const std::string& prefix, Tape& tape) {
        fact(prefix + "stream", std::to_string(tape.stream()));
        running({prefix + "step", &tape, false, [](const void* t) noexcept { return static_cast<const Tape*>(t)->step(); },
                 [](void* t, std::uint64_t step) noexcept { static_cast<Tape*>(t)->set_step(step); }});
    }
    /// What files say of a method; nothing of one that has no file format.
    template <class Method> void append_options(const std::string& prefix, Method& method, std::size_t& number) {
        if constexpr (std::is_same_v<Method, Chain<T>>) {
            for (AnyAdapter<T>& part : method.parts()) append_options(prefix, part, number);
        } else if constexpr (std::is_same_v<Method, AnyAdapter<T>>) {
            if (auto* chain = method.template get_if<Chain<T>>()) return append_options(prefix, *chain, number);
            try {
                append_description(prefix, method.describe(), number);
            } catch (const StateError&) {
                return;
            }
        } else if constexpr (detail::HasFormat<Method>) {
            append_description(prefix, detail::describe(method), number);
        }
    }
    void append_description(const std::string& prefix, const Description<T>& description, std::size_t& number) {
        const std::string key = prefix + std::to_string(number++) + "/";
        fact(key + "type", description.peft_type);
        fact(key + "random_seed", std::to_string(description.seed));
        for (const DescribedField& field : description.fields) fact(key + field.key, dump_json(field.value, -1));
    }

    struct Record {
        std::map<std::string, std::string, std::less<>> facts;
        std::vector<detail::StateBytes> tensors;
    };
    /// Everything under its name in the file, sorted. Throws StateError when an optimizer trains what was not added.
    Record record() const {
        Record record{facts_, {}};
        std::map<const void*, std::string> names;
        for (const detail::StateTensor& tensor : tensors_) {
            const auto shape = tensor.shape(tensor.owner.get());
            record.tensors.push_back({tensor.name, tensor.dtype, {shape[0], shape[1]}, tensor.bytes(tensor.owner.get())});
            names.emplace(tensor.owner.get(), tensor.name);
        }
        for (const detail::StateMoments& parameter : moments_) {
            const auto found = names.find(parameter.parameter);
            if (found == names.end()) {
                throw StateError("an optimizer trains a parameter that the training state does not hold",
                                 {.subject = parameter.optimizer + ": " + parameter.name, .expected = "add() of its layer"});
            }
            const std::string key = "optimizer/" + parameter.optimizer + "/" + found->second;
            record.facts.emplace(key, parameter.place);
            for (const auto& moment : parameter.moments) {
                record.tensors.push_back({key + "/" + std::string(moment.name), moment.dtype, {moment.bytes.size() / dtype_size(moment.dtype)}, moment.bytes});
            }
        }
        std::sort(record.tensors.begin(), record.tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
        record.facts.emplace("format", "peft training state");
        record.facts.emplace("version", "1");
        record.facts.emplace("type", dtype_name(dtype_of<T>()));
        return record;
    }

    std::map<std::string, std::string, std::less<>> facts_;   // must be equal on loading
    std::vector<detail::StateTensor> tensors_;
    std::vector<detail::StateMoments> moments_;
    std::vector<detail::StateNumber> numbers_;
};

/// Writes a training state as one safetensors file: it holds the old state or the whole new one at any time. Equal states
/// give equal bytes. Throws StateError when an optimizer trains what was not added, FileError when the system refuses; the
/// old file then stays.
template <Scalar T> void save_training_state(const std::string& path, const TrainingState<T>& state) {
    const auto record = state.record();
    Metadata metadata(record.facts.begin(), record.facts.end());
    for (const detail::StateNumber& number : state.numbers_) metadata.emplace(number.key, number.text());
    std::vector<TensorData> tensors;
    detail::StateChecksum checksum;
    for (const detail::StateBytes& tensor : record.tensors) {
        tensors.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.bytes});
        checksum.add(tensor.bytes);
    }
    metadata.emplace(detail::state_checksum_key, checksum.text(metadata));
    write_safetensors(path, tensors, metadata);
}

/// Reads a training state into the objects that were added; layers need prepare() before inference, as after any step.
/// Needs the size of the state once more while it reads. Throws, with nothing changed, FormatError naming file and tensor or
/// key, what is here and what the file holds, when the file is broken or of another model, optimizer, option or type;
/// FileError when the system refuses; StateError when an optimizer trains what was not added.
template <Scalar T> void load_training_state(const std::string& path, TrainingState<T>& state) {
    const SafetensorsFile file(path);
    const Metadata metadata = file.metadata();
    const auto record = state.record();
    const auto refuse = [&](std::string_view what, std::string_view subject, std::string expected, std::string found) {
        throw FormatError(what, {.file = path, .subject = std::string(subject), .expected = std::move(expected), .found = std::move(found)});
    };
    const auto check_fact = [&](const std::string& key, const std::string& expected) {
        const auto found = metadata.find(key);
        if (found == metadata.end()) refuse("not in the training state", key, expected, "nothing");
        else if (found->second != expected) refuse("another one in the training state", key, expected, found->second);
    };
    const auto check_tensor = [&](const detail::StateBytes& tensor) {
        const TensorInfo* info = file.find(tensor.name);
        const std::string expected = detail::tensor_text(tensor.dtype, tensor.shape);
        if (info == nullptr) refuse("the training state lacks this tensor", tensor.name, expected, "nothing");
        else if (info->dtype != tensor.dtype || info->shape != tensor.shape) refuse("another tensor in the training state", tensor.name, expected, detail::tensor_text(info->dtype, info->shape));
    };
    const auto of_optimizer = [](const detail::StateBytes& tensor) { return tensor.name.starts_with("optimizer/"); };

    // What the file is, then the model, then everything said of it and of the optimizers: the first fault names the cause.
    for (const char* key : {"format", "version", "type"}) check_fact(key, record.facts.at(key));
    for (const detail::StateBytes& tensor : record.tensors) {
        if (!of_optimizer(tensor)) check_tensor(tensor);
    }
    for (const auto& [key, expected] : record.facts) check_fact(key, expected);
    std::vector<std::uint64_t> numbers;
    for (const detail::StateNumber& number : state.numbers_) {
        const auto found = metadata.find(number.key);
        if (found == metadata.end()) refuse("not in the training state", number.key, "a number", "nothing");
        numbers.push_back(number.parse(path, found->second));
    }
    for (const auto& [key, value] : metadata) {
        const auto known = [&key = key](const detail::StateNumber& number) { return number.key == key; };
        if (key == detail::state_checksum_key || record.facts.count(key) != 0 || std::any_of(state.numbers_.begin(), state.numbers_.end(), known)) continue;
        refuse("the training state was saved with something that was not added here", key, "nothing", value);
    }
    for (const detail::StateBytes& tensor : record.tensors) {
        if (of_optimizer(tensor)) check_tensor(tensor);
    }
    if (file.tensors().size() != record.tensors.size()) {   // all of ours are there: it holds others too
        for (const TensorInfo& info : file.tensors()) {
            const auto same = [&](const detail::StateBytes& tensor) { return tensor.name == info.name; };
            if (std::none_of(record.tensors.begin(), record.tensors.end(), same)) refuse("the training state holds a tensor that was not added here", info.name, "nothing", detail::tensor_text(info.dtype, info.shape));
        }
    }

    std::vector<std::vector<std::byte>> staged;
    detail::StateChecksum checksum;
    for (const detail::StateBytes& tensor : record.tensors) {
        staged.push_back(file.read_bytes(tensor.name));
        checksum.add(staged.back());
    }
    check_fact(std::string(detail::state_checksum_key), checksum.text(metadata));

    // Nothing below can fail.
    for (std::size_t i = 0; i < staged.size(); ++i) {
        if (!staged[i].empty()) std::memcpy(record.tensors[i].bytes.data(), staged[i].data(), staged[i].size());
    }
    for (const detail::StateTensor& tensor : state.tensors_) tensor.loaded(tensor.owner.get());
    for (std::size_t i = 0; i < numbers.size(); ++i) state.numbers_[i].set(state.numbers_[i].owner, numbers[i]);
}

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
