#include "contract/contract.hpp"
#include "io/tensor_files.hpp"
#include "support/catch.hpp"
#include "support/temporary_directory.hpp"

#include <peft/io/load.hpp>
#include <peft/io/save.hpp>
#include <peft/linear/dense.hpp>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace {

using namespace peft_test;
namespace io = peft::io;
namespace fs = std::filesystem;

using Directory = peft_test::TemporaryDirectory;

std::string text_of(const std::string& path) { return io::read_file(path, 1u << 24); }

void write_text(const std::string& path, const std::string& text) {
    io::AtomicFile file(path);
    file.write(std::string_view(text));
    file.commit();
}

// --- the corpus of unusual and malformed adapters

template <class S> using Dense = peft::DenseLinear<float, S>;
using AnyDense = std::variant<Dense<float>, Dense<peft::bfloat16>, Dense<peft::float16>>;

template <class S> AnyDense read_dense(const io::SafetensorsFile& file, const io::TensorInfo& info) {
    Matrix<S> weight(info.shape[0], info.shape[1]);
    file.read_values<S>(info, weight.flat());
    const io::TensorInfo* bias = file.find(info.name.substr(0, info.name.size() - 6) + "bias");
    return Dense<S>(std::move(weight), bias == nullptr ? Matrix<float>() : file.read_matrix<float>(*bias));
}

/// The Linears of a base file by module name. An unsuitable dtype is refused by the name of the tensor, as a merge tool would.
std::map<std::string, AnyDense> read_base(const std::string& path, const io::TargetRules& rules) {
    const io::SafetensorsFile file(path);
    std::map<std::string, AnyDense> layers;
    for (const auto& info : file.tensors()) {
        if (!info.name.ends_with(".weight")) continue;
        const std::string module = info.name.substr(0, info.name.size() - 7);
        if (info.shape.size() != 2 || (!rules.targets(module) && !rules.saved_in_full(module) && rules.bias() != io::BiasMode::all)) continue;
        switch (info.dtype) {
            case io::Dtype::F32: layers.emplace(module, read_dense<float>(file, info)); break;
            case io::Dtype::BF16: layers.emplace(module, read_dense<peft::bfloat16>(file, info)); break;
            case io::Dtype::F16: layers.emplace(module, read_dense<peft::float16>(file, info)); break;
            default: static_cast<void>(file.read_matrix<float>(info));   // throws, naming the tensor and its dtype
        }
    }
    return layers;
}

template <class S> std::string hex_of(const Matrix<S>& values) {
    std::string text;
    for (const std::byte byte : std::as_bytes(values.flat())) {
        text += "0123456789abcdef"[static_cast<unsigned>(byte) >> 4];
        text += "0123456789abcdef"[static_cast<unsigned>(byte) & 15u];
    }
    return text;
}

std::string bytes_of(const std::map<std::string, AnyDense>& layers) {
    std::string text;
    for (const auto& [module, layer] : layers) {
        text += module + std::visit([](const auto& dense) { return hex_of(dense.stored()); }, layer);
    }
    return text;
}

/// Loads an adapter onto a base and, if asked, merges all of it. Throws what the library throws.
void use_adapter(const std::string& directory, bool merge, std::map<std::string, AnyDense>& layers, std::string& before) {
    auto loaded = io::load_adapter<float>(directory + (fs::exists(directory + "/adapter") ? "/adapter" : ""));
    if (fs::exists(directory + "/base.safetensors")) {
        layers = read_base(directory + "/base.safetensors", loaded.rules());
    } else {   // the shapes the corpus was made for
        layers.emplace("model.layers.0.self_attn.q_proj", Dense<float>(LayerShape{4, 6}, false));
        layers.emplace("model.layers.0.self_attn.v_proj", Dense<float>(LayerShape{4, 4}, false));
    }
    before = bytes_of(layers);
    std::vector<std::pair<AnyDense*, peft::AnyAdapter<float>>> methods;
    for (auto& [module, layer] : layers) {
        if (!loaded.targets(module)) continue;
        const LayerShape shape = std::visit([](const auto& dense) { return dense.shape(); }, layer);
        methods.emplace_back(&layer, loaded.method(module, shape));
    }
    loaded.finish();
    if (!merge) return;
    // All modules or none: what is merged is taken back when a later one is refused.
    std::vector<std::function<void()>> undo;
    try {
        for (auto& [layer, method] : methods) {
            std::visit([&, &m = method](auto& dense) {
                auto adapted = std::make_shared<peft::Adapted<std::remove_reference_t<decltype(dense)>&, peft::AnyAdapter<float>>>(peft::adapt(dense, m));
                adapted->merge();
                undo.push_back([adapted] { adapted->unmerge(); });
            }, *layer);
        }
    } catch (...) {
        for (auto it = undo.rbegin(); it != undo.rend(); ++it) (*it)();
        throw;
    }
}

}  // namespace

TEST_CASE("load: the corpus of unusual and malformed adapters gets the right verdicts", "") {
    const std::string root = std::string(PEFT_TEST_DATA) + "/io/badfiles_adapters/";
    const peft::Value manifest = io::parse_json(text_of(root + "manifest.json"), "manifest.json");
    std::size_t valid = 0, refused = 0;
    for (const peft::Value& row : manifest.as_array()) {
        const std::string path = row.at("path").as_string();
        const std::string tier = row.at("tier").as_string();
        INFO(path << ": " << row.at("why").as_string());
        std::map<std::string, AnyDense> layers;
        std::string before, message;
        bool accepted = true;
        const bool merging = row.at("kind").as_string() == "merge";
        try {
            use_adapter(root + path, merging, layers, before);
        } catch (const peft::Error& error) {
            accepted = false;
            message = error.what();
        }
        INFO(message);
        if (tier == "policy") continue;   // what we do with those is in the cases below
        CHECK(accepted == row.at("valid").as_bool());
        (row.at("valid").as_bool() ? valid : refused) += 1;
        if (!accepted) {
            CHECK(bytes_of(layers) == before);
            CHECK(message.size() < 1024);
            CHECK(message.find('\n') == std::string::npos);
            if (const peft::Value* names = row.find("names"); names != nullptr && !merging) {   // a layer does not know its name
                for (const auto& fact : names->as_object()) {
                    if (fact.key == "tensor" || fact.key == "key") CHECK_THAT(message, Catch::Matchers::ContainsSubstring(fact.value.as_string()));
                }
            }
        } else if (const peft::Value* merged = row.find("merged")) {
            for (const auto& tensor : merged->as_object()) {
                const std::string module = tensor.key.substr(0, tensor.key.size() - 7);
                if (layers.count(module) == 0) continue;   // untouched by the adapter
                CHECK(std::visit([](const auto& dense) { return hex_of(dense.stored()); }, layers.at(module)) == tensor.value.at("bytes_hex").as_string());
            }
        }
    }
    CHECK(valid >= 8);
    CHECK(refused >= 40);
}

namespace {

/// A network of two layers with a method on each, saved: the input of the cases below.
struct Saved {
    peft::DenseLinear<float> fc1{random_matrix<float>(6, 5, 1), random_matrix<float>(1, 6, 2)};
    peft::DenseLinear<float> fc2{random_matrix<float>(4, 6, 3), random_matrix<float>(1, 4, 4)};
    Directory directory;

    template <class Make> void save(const Make& make) {
        auto one = peft::adapt(fc1, make(fc1.shape(), std::size_t{1}), 1);
        auto two = peft::adapt(fc2, make(fc2.shape(), std::size_t{2}), 2);
        disturb(one, 50);
        disturb(two, 60);
        peft::Bank<float> bank;
        bank.add("net.fc1", one);
        bank.add("net.fc2", two);
        io::save_adapter(directory.path(), bank);
    }
    void save_lora() {
        save([](LayerShape shape, std::size_t rank) { return peft::LoRA<float>(shape, {.rank = rank, .alpha = 3}); });
    }
    std::string config_path() const { return directory.file("adapter_config.json"); }
    peft::Value config() const { return io::parse_json(text_of(config_path()), config_path()); }
    /// Writes the tensors again, without the digest of the configuration.
    template <class Change> void rewrite(const Change& change) { peft_test::rewrite_tensors(directory.file("adapter_model.safetensors"), change); }
};

template <class Call> std::string message_of(const Call& call) {
    try {
        call();
    } catch (const peft::Error& error) {
        return error.what();
    }
    return "";
}

auto says(const std::string& text) { return Catch::Matchers::ContainsSubstring(text); }

}  // namespace

TEST_CASE("save: ranks and scales that differ become patterns, and loading gives each layer its own", "") {
    Saved net;
    net.save_lora();
    const peft::Value config = net.config();
    CHECK(config.at("peft_type").as_string() == "LORA");
    CHECK(config.at("r").as_integer() == 1);
    CHECK(config.at("lora_alpha").is_integer());
    REQUIRE(config.at("rank_pattern").as_object().size() == 1);
    auto loaded = io::load_adapter<float>(net.directory.path());
    auto one = loaded.attach("net.fc1", net.fc1);
    auto two = loaded.attach("net.fc2", net.fc2);
    loaded.finish();
    CHECK(one.method().get_if<peft::LoRA<float>>()->options().rank == 1);
    CHECK(two.method().get_if<peft::LoRA<float>>()->options().rank == 2);
    CHECK_THROWS_AS(loaded.attach("net.fc1", net.fc1), peft::StateError);
    CHECK_THROWS_AS(loaded.attach("net.fc3", net.fc1), peft::StateError);
}

TEST_CASE("save: what is loaded saves the same bytes again", "") {
    Saved net;
    net.save([](LayerShape shape, std::size_t k) { return peft::IA3<float>(shape, {.feedforward = k == 2}); });
    auto loaded = io::load_adapter<float>(net.directory.path());
    auto one = loaded.attach("net.fc1", net.fc1);
    auto two = loaded.attach("net.fc2", net.fc2);
    loaded.finish();
    const Directory second;
    peft::Bank<float> bank(loaded.config());
    bank.add("net.fc1", one);
    bank.add("net.fc2", two);
    io::save_adapter(second.path(), bank);
    for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) CHECK(text_of(net.directory.file(name)) == text_of(second.file(name)));
}

TEST_CASE("save: trained layers and biases stand where upstream looks for them", "") {
    peft::DenseLinear<float> a{random_matrix<float>(6, 5, 1), random_matrix<float>(1, 6, 2)}, b = a, c = a;
    const auto untouched = a;
    std::vector<peft::AnyAdapter<float>> parts;
    parts.push_back(peft::LoRA<float>(a.shape()));
    parts.push_back(peft::Trained<float>(a.shape(), {.weight = false}));
    auto one = peft::adapt(a, peft::AnyAdapter<float>(peft::Chain<float>(std::move(parts))));
    auto two = peft::adapt(b, peft::Trained<float>(b.shape(), {.weight = false}));
    auto three = peft::adapt(c, peft::Trained<float>(c.shape()));
    disturb(one, 1);
    disturb(two, 2);
    disturb(three, 3);
    peft::Bank<float> bank;
    bank.add("a", one);
    bank.add("b", two);
    bank.add("c", three);
    const Directory directory;
    io::save_adapter(directory.path(), bank);
    const io::SafetensorsFile file(directory.file("adapter_model.safetensors"));
    for (const char* name : {"a.lora_A.weight", "a.lora_B.weight", "a.base_layer.bias", "b.bias", "c.weight", "c.bias"}) {
        CHECK(file.find(std::string("base_model.model.") + name) != nullptr);
    }
    CHECK(file.tensors().size() == 6);
    auto loaded = io::load_adapter<float>(directory.path());
    CHECK(loaded.config().at("bias").as_string() == "all");
    const auto x = random_matrix<float>(3, 5, 9);
    auto a2 = untouched, b2 = untouched, c2 = untouched;
    CHECK(same_bytes(loaded.attach("a", a2).forward(x), one.forward(x)));
    CHECK(same_bytes(loaded.attach("b", b2).forward(x), two.forward(x)));
    CHECK(same_bytes(loaded.attach("c", c2).forward(x), three.forward(x)));
    loaded.finish();
}

TEST_CASE("load: a tensor that nothing consumes is named by finish", "") {
    Saved net;
    net.save_lora();
    const std::vector<float> numbers(4, 1.0f);
    net.rewrite([&](std::vector<io::TensorData>& tensors) { tensors.push_back({"base_model.model.net.fc9.lora_A.weight", io::Dtype::F32, {1, 4}, std::as_bytes(std::span(numbers))}); });
    auto loaded = io::load_adapter<float>(net.directory.path());
    auto one = loaded.attach("net.fc1", net.fc1);
    auto two = loaded.attach("net.fc2", net.fc2);
    CHECK_THAT(message_of([&] { loaded.finish(); }), says("base_model.model.net.fc9.lora_A.weight"));
}

TEST_CASE("load: a missing tensor and a wrong shape are named, and the next attempt starts afresh", "") {
    Saved net;
    net.save_lora();
    auto loaded = io::load_adapter<float>(net.directory.path());
    const std::string shape = message_of([&] { loaded.attach("net.fc1", net.fc2); });
    CHECK_THAT(shape, says("base_model.model.net.fc1.lora_A.weight"));
    CHECK_THAT(shape, says("expected [1, 6], found [1, 5]"));
    CHECK(loaded.left_over().size() == 4);
    CHECK_NOTHROW(loaded.attach("net.fc1", net.fc1));

    net.rewrite([](std::vector<io::TensorData>& tensors) { tensors.erase(tensors.begin() + 1); });
    auto torn = io::load_adapter<float>(net.directory.path());
    CHECK_THAT(message_of([&] { torn.attach("net.fc1", net.fc1); }), says("base_model.model.net.fc1.lora_B.weight"));
}

TEST_CASE("load: the same parameter under two names is refused", "") {
    Saved net;
    net.save_lora();
    const std::vector<float> numbers(5, 1.0f);
    net.rewrite([&](std::vector<io::TensorData>& tensors) { tensors.push_back({"net.fc1.lora_A.weight", io::Dtype::F32, {1, 5}, std::as_bytes(std::span(numbers))}); });
    auto loaded = io::load_adapter<float>(net.directory.path());
    CHECK_THAT(message_of([&] { loaded.attach("net.fc1", net.fc1); }), says("net.fc1.lora_A.weight"));
}

TEST_CASE("load: a rank that no tensor has is refused before memory is taken for it", "") {
    for (const std::int64_t rank : {std::int64_t{5000}, std::int64_t{100'000'000'000}, std::int64_t{1} << 61}) {
        Saved net;
        net.save_lora();
        auto config = net.config();
        config.set("r", peft::Value(rank));
        config.set("rank_pattern", peft::Value());
        write_text(net.directory.file("adapter_config.json"), io::dump_json(config));
        io::SafetensorsFile old(net.directory.file("adapter_model.safetensors"));
        std::vector<std::vector<std::byte>> bytes;
        std::vector<io::TensorData> tensors;
        for (const auto& info : old.tensors()) {
            bytes.push_back(old.read_bytes(info.name));
            tensors.push_back({info.name, info.dtype, info.shape, bytes.back()});
        }
        io::write_safetensors(net.directory.file("adapter_model.safetensors"), tensors);   // without the digest
        auto loaded = io::load_adapter<float>(net.directory.path());
        try {
            static_cast<void>(loaded.method("net.fc1", net.fc1.shape()));
            FAIL("accepted");
        } catch (const peft::FormatError& error) {
            CHECK(error.context().subject == "r");
            CHECK(error.context().found == std::to_string(rank));
        }
    }
}

TEST_CASE("load: types and features this version lacks are refused by name", "") {
    Saved net;
    net.save_lora();
    net.rewrite([](std::vector<io::TensorData>&) {});
    const peft::Value good = net.config();
    const auto with = [&](const char* key, peft::Value value) {
        peft::Value config = good;
        config.set(key, std::move(value));
        write_text(net.config_path(), io::dump_json(config, 2));
        return message_of([&] { io::load_adapter<float>(net.directory.path()); });
    };
    CHECK_THAT(with("peft_type", peft::Value("QUANTUM")), says("QUANTUM"));
    CHECK_THAT(with("init_lora_weights", peft::Value("pissa")), says("pissa"));
    CHECK_THAT(with("use_qalora", peft::Value(true)), says("use_qalora"));
    CHECK_THAT(with("target_parameters", peft::Value(peft::Value::Array{peft::Value("x")})), says("target_parameters"));
    CHECK(with("a_key_of_tomorrow", peft::Value(5)).empty());
}

TEST_CASE("load: configuration and tensors of different saves are refused", "") {
    Saved net;
    net.save_lora();
    peft::Value config = net.config();
    config.set("lora_alpha", peft::Value(100));
    write_text(net.config_path(), io::dump_json(config, 2));
    CHECK_THAT(message_of([&] { io::load_adapter<float>(net.directory.path()); }), says("peft_config_digest"));
}

TEST_CASE("load: a pickle is not opened, a missing file is named", "") {
    Saved net;
    net.save_lora();
    fs::rename(net.directory.file("adapter_model.safetensors"), net.directory.file("adapter_model.bin"));
    CHECK_THAT(message_of([&] { io::load_adapter<float>(net.directory.path()); }), says("pickle"));
    CHECK_THROWS_AS(io::load_adapter<float>(net.directory.file("nowhere")), peft::FileError);
}

TEST_CASE("load: a list of methods of one's own makes no others", "") {
    Saved net;
    net.save_lora();
    auto loaded = io::load_adapter<peft::method_list<peft::LoRA<float>>>(net.directory.path());
    CHECK_NOTHROW(loaded.attach("net.fc1", net.fc1));
    CHECK_THROWS_AS((io::load_adapter<peft::method_list<peft::SSF<float>>>(net.directory.path())), peft::UnsupportedError);
}

TEST_CASE("load: the file of an adapter that changed its base is read when the caller says which base he holds", "") {
    Saved net;
    const peft::PiSSA<float>::Options options{.rank = 2, .alpha = 3, .rank_stabilized = true, .iterations = 3};
    auto layer = peft::adapt(net.fc1, peft::PiSSA<float>(net.fc1.shape(), options));
    disturb(layer, 3);
    peft::Bank<float> bank;
    bank.add("net.fc1", layer);
    io::save_adapter(net.directory.path(), bank);
    CHECK(net.config().at("init_lora_weights").as_string() == "pissa_niter_3");
    CHECK(io::SafetensorsFile(net.directory.file("adapter_model.safetensors")).tensors().size() == 2);   // the start is not in it

    CHECK_THAT(message_of([&] { io::load_adapter<float>(net.directory.path()); }), says("BaseKind::original"));
    const Matrix<float> x = random_matrix<float>(3, net.fc1.shape().in, 4);
    {
        auto loaded = io::load_adapter<float>(net.directory.path(), {.base = peft::BaseKind::original});
        peft::DenseLinear<float> base = net.fc1;
        auto again = loaded.attach("net.fc1", base);
        CHECK(again.method().get_if<peft::PiSSA<float>>()->options().iterations == 3);
        CHECK(same_bytes(again.forward(x), layer.forward(x)));
    }
    {
        peft::DenseLinear<float> base = net.fc1;
        const auto residual = peft::adapt(base, peft::PiSSA<float>(net.fc1.shape(), {.rank = 2, .alpha = 3, .rank_stabilized = true, .rebase = true, .iterations = 3}));
        auto loaded = io::load_adapter<float>(net.directory.path(), {.base = peft::BaseKind::residual});
        auto plain = loaded.attach("net.fc1", base);
        CHECK(plain.method().get_if<peft::LoRA<float>>() != nullptr);
        const auto y = plain.forward(x), wanted = layer.forward(x);
        for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::fabs(y.data()[i] - wanted.data()[i]) <= 1e-5f * static_cast<float>(net.fc1.shape().in));
    }

    net.rewrite([](std::vector<io::TensorData>&) {});
    const peft::Value good = net.config();
    const auto with = [&](const char* name, peft::BaseKind base) {
        peft::Value config = good;
        config.set("init_lora_weights", peft::Value(name));
        write_text(net.config_path(), io::dump_json(config, 2));
        return message_of([&] { static_cast<void>(io::load_adapter<float>(net.directory.path(), {.base = base}).method("net.fc1", net.fc1.shape())); });
    };
    CHECK(with("corda", peft::BaseKind::residual).empty());
    CHECK_THAT(with("corda", peft::BaseKind::original), says("cannot be taken out of the base again"));
    CHECK_THAT(with("corda", peft::BaseKind::unstated), says("say which base"));
    CHECK_THAT(with("a start of tomorrow", peft::BaseKind::residual), says("a start of tomorrow"));
    for (const char* name : {"pissa_niter_", "pissa_niter_0", "pissa_niter_2x", "pissa_niter_9999999999999999999999"}) {
        CHECK_THAT(with(name, peft::BaseKind::original), says(name));
    }
    CHECK(with("pissa_niter_12", peft::BaseKind::original).empty());
    CHECK(with("olora", peft::BaseKind::original).empty());
}

TEST_CASE("save: a projection that layers share stands in the file once", "") {
    Saved net;
    const LayerShape largest{std::max(net.fc1.shape().in, net.fc2.shape().in), std::max(net.fc1.shape().out, net.fc2.shape().out)};
    for (const bool stored : {true, false}) {
        const peft::VeRA<float>::Options options{.rank = 3, .save_projection = stored, .projection_seed = 7};
        const auto shared = peft::SharedProjection<float>::seeded(3, largest, 7);
        auto one = peft::adapt(net.fc1, peft::VeRA<float>(net.fc1.shape(), options, shared));
        auto two = peft::adapt(net.fc2, peft::VeRA<float>(net.fc2.shape(), options, shared));
        disturb(one, 3);
        disturb(two, 4);
        peft::Bank<float> bank;
        bank.add("net.fc1", one);
        bank.add("net.fc2", two);
        io::save_adapter(net.directory.path(), bank);
        const io::SafetensorsFile file(net.directory.file("adapter_model.safetensors"));
        CHECK(file.tensors().size() == (stored ? 6 : 4));
        CHECK((file.find("base_model.vera_A") != nullptr) == stored);

        auto loaded = io::load_adapter<float>(net.directory.path(), {.largest = largest});
        peft::DenseLinear<float> fc1 = net.fc1, fc2 = net.fc2;
        auto first = loaded.attach("net.fc1", fc1);
        auto second = loaded.attach("net.fc2", fc2);
        loaded.finish();
        CHECK(first.method().get_if<peft::VeRA<float>>()->projection() == second.method().get_if<peft::VeRA<float>>()->projection());
        const auto x = random_matrix<float>(2, fc1.shape().in, 5);
        CHECK(same_bytes(first.forward(x), one.forward(x)));

        auto blind = io::load_adapter<float>(net.directory.path());
        if (stored) CHECK_NOTHROW(blind.method("net.fc1", fc1.shape()));
        else CHECK_THAT(message_of([&] { static_cast<void>(blind.method("net.fc1", fc1.shape())); }), says(".largest"));
    }
    // two projections in one file
    auto one = peft::adapt(net.fc1, peft::VeRA<float>(net.fc1.shape(), {.rank = 3}));
    auto two = peft::adapt(net.fc2, peft::VeRA<float>(net.fc2.shape(), {.rank = 3}));
    peft::Bank<float> bank;
    bank.add("net.fc1", one);
    bank.add("net.fc2", two);
    CHECK_THAT(message_of([&] { io::save_adapter(net.directory.path(), bank); }), says("must share") && says("vera_A"));
}

TEST_CASE("load: a shared projection that does not fit is named", "") {
    Saved net;
    auto one = peft::adapt(net.fc1, peft::VeRA<float>(net.fc1.shape(), {.rank = 3}));
    peft::Bank<float> bank;
    bank.add("net.fc1", one);
    io::save_adapter(net.directory.path(), bank);
    auto loaded = io::load_adapter<float>(net.directory.path());
    const LayerShape wider{net.fc1.shape().in + 1, net.fc1.shape().out};
    CHECK_THAT(message_of([&] { static_cast<void>(loaded.method("net.fc1", wider)); }), says("does not fit"));
    net.rewrite([](std::vector<io::TensorData>& tensors) { std::erase_if(tensors, [](const io::TensorData& t) { return t.name == "base_model.vera_B"; }); });
    auto half = io::load_adapter<float>(net.directory.path());
    CHECK_THAT(message_of([&] { static_cast<void>(half.method("net.fc1", net.fc1.shape())); }), says("base_model.vera_B"));
}

TEST_CASE("save: modules whose names end in one another are told apart or refused", "") {
    peft::DenseLinear<float> a(LayerShape{5, 6}), b(LayerShape{5, 6});
    const Directory directory;
    {
        auto one = peft::adapt(a, peft::IA3<float>(a.shape(), {.feedforward = true}));
        auto two = peft::adapt(b, peft::IA3<float>(b.shape()));
        peft::Bank<float> bank;
        bank.add("fc", one);
        bank.add("my_fc", two);
        io::save_adapter(directory.path(), bank);
        auto loaded = io::load_adapter<float>(directory.path());
        CHECK(loaded.attach("fc", a).method().get_if<peft::IA3<float>>()->options().feedforward);
        CHECK_FALSE(loaded.attach("my_fc", b).method().get_if<peft::IA3<float>>()->options().feedforward);
        loaded.finish();
    }
    auto full = peft::adapt(a, peft::Trained<float>(a.shape()));
    auto target = peft::adapt(b, peft::LoRA<float>(b.shape()));
    peft::Bank<float> bank;
    bank.add("head", full);
    bank.add("decoder.head", target);
    CHECK_THROWS_AS(io::save_adapter(directory.path(), bank), peft::OptionError);
}

TEST_CASE("save: rules of an old configuration do not hide new targets", "") {
    peft::DenseLinear<float> a(LayerShape{5, 6});
    auto layer = peft::adapt(a, peft::LoRA<float>(a.shape()));
    peft::Value config;
    config.set("target_modules", peft::Value(peft::Value::Array{peft::Value("q")}));
    config.set("exclude_modules", peft::Value("fc.*"));
    config.set("layers_to_transform", peft::Value(3));
    peft::Bank<float> bank(config);
    bank.add("model.layers.1.fc", layer);
    const Directory directory;
    io::save_adapter(directory.path(), bank);
    auto loaded = io::load_adapter<float>(directory.path());
    static_cast<void>(loaded.attach("model.layers.1.fc", a));
    loaded.finish();
}

TEST_CASE("save: what one file cannot say is refused and the old files stay", "") {
    Saved net;
    net.save_lora();
    const std::string before = text_of(net.directory.file("adapter_model.safetensors"));
    auto one = peft::adapt(net.fc1, peft::LoRA<float>(net.fc1.shape(), {.dropout = 0.1}));
    auto two = peft::adapt(net.fc2, peft::LoRA<float>(net.fc2.shape(), {.dropout = 0.2}));
    auto other = peft::adapt(net.fc2, peft::SSF<float>(net.fc2.shape()));
    peft::Bank<float> options, methods;
    options.add("net.fc1", one);
    options.add("net.fc2", two);
    methods.add("net.fc1", one);
    methods.add("net.fc2", other);
    CHECK_THAT(message_of([&] { io::save_adapter(net.directory.path(), options); }), says("lora_dropout"));
    CHECK_THROWS_AS(io::save_adapter(net.directory.path(), methods), peft::OptionError);
    CHECK_THROWS_AS(methods.add("net.fc1", one), peft::OptionError);
    CHECK(text_of(net.directory.file("adapter_model.safetensors")) == before);
}

TEMPLATE_TEST_CASE("format tables: keys name the tensors the method has", "", float, double) {
    const auto check = [](auto method) {
        using M = decltype(method);
        std::vector<std::string> have;
        M::each_tensor(method, [&](std::string_view name, const auto&, peft::Role, peft::TensorShape = {}) { have.emplace_back(name); });
        for (const auto& name : have) CHECK_NOTHROW(peft::detail::key_of(peft::hf_format<M>::keys, name));
        CHECK(have.size() == peft::hf_format<M>::keys.size());
    };
    const LayerShape shape{4, 3};
    check(peft::LoRA<TestType>(shape, {.bias = true}));
    check(peft::DoRA<TestType>(shape));
    check(peft::IA3<TestType>(shape));
    check(peft::NOLA<TestType>(shape));
    check(peft::NOLA<TestType, peft::StoredBasis<TestType>>(shape));
    check(peft::SSF<TestType>(shape));
    check(peft::Trained<TestType>(shape));
    check(peft::PiSSA<TestType>(shape));
    check(peft::OLoRA<TestType>(shape));
    check(peft::VeRA<TestType>(shape, {.rank = 2}, peft::SharedProjection<TestType>::seeded(2, shape, 0)));
}

TEST_CASE("load: full fine-tuning of layers with and without a bias comes back", "") {
    peft::DenseLinear<float> a{random_matrix<float>(6, 5, 1), random_matrix<float>(1, 6, 2)}, b{random_matrix<float>(6, 5, 3)};
    const auto a2 = a, b2 = b;
    auto one = peft::adapt(a, peft::Trained<float>(a.shape()));
    auto two = peft::adapt(b, peft::Trained<float>(b.shape()));
    disturb(one, 1);
    disturb(two, 2);
    peft::Bank<float> bank;
    bank.add("a", one);
    bank.add("b", two);
    const Directory directory;
    io::save_adapter(directory.path(), bank);
    auto loaded = io::load_adapter<float>(directory.path());
    CHECK(loaded.config().at("peft_type").as_string() == "X_FULL");
    const auto x = random_matrix<float>(3, 5, 9);
    auto fresh_a = a2, fresh_b = b2;
    CHECK(same_bytes(loaded.attach("a", fresh_a).forward(x), one.forward(x)));
    CHECK(same_bytes(loaded.attach("b", fresh_b).forward(x), two.forward(x)));
    loaded.finish();
}

TEST_CASE("load: with bias lora_only a bias beside an untouched module belongs to nobody", "") {
    Saved net;
    net.save_lora();
    const std::vector<float> numbers(4, 1.0f);
    net.rewrite([&](std::vector<io::TensorData>& tensors) { tensors.push_back({"base_model.model.net.fc3.bias", io::Dtype::F32, {4}, std::as_bytes(std::span(numbers))}); });
    peft::Value config = net.config();
    config.set("bias", peft::Value("lora_only"));
    write_text(net.config_path(), io::dump_json(config, 2));
    auto loaded = io::load_adapter<float>(net.directory.path());
    CHECK_FALSE(loaded.targets("net.fc3"));
    auto one = loaded.attach("net.fc1", net.fc1);
    auto two = loaded.attach("net.fc2", net.fc2);
    CHECK_THAT(message_of([&] { loaded.finish(); }), says("net.fc3.bias"));
}

TEST_CASE("save: a bank takes nested layers and chains apart", "") {
    peft::DenseLinear<float> a{random_matrix<float>(6, 5, 1), random_matrix<float>(1, 6, 2)};
    auto inner = peft::adapt(a, peft::Trained<float>(a.shape(), {.weight = false}));
    auto outer = peft::adapt(inner, peft::LoRA<float>(a.shape()));
    peft::Bank<float> nested;
    nested.add("a", outer);
    REQUIRE(nested.entries().size() == 1);
    CHECK(nested.entries().front().parts.size() == 2);
    std::vector<peft::AnyAdapter<float>> parts;
    parts.push_back(peft::LoRA<float>(a.shape()));
    auto chained = peft::adapt(a, peft::Chain<float>(std::move(parts)));
    peft::Bank<float> chain;
    chain.add("a", chained);
    CHECK(chain.entries().front().parts.size() == 1);
}
