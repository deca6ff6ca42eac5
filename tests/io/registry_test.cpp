#include "contract/contract.hpp"
#include "io/tensor_files.hpp"
#include "support/temporary_directory.hpp"

#include <peft/io/load.hpp>
#include <peft/io/save.hpp>

#include <string>
#include <vector>

// What making a method from a file checks beyond its real tensors: index tensors, extents, the generator of a basis that is
// in no file. NOLA has all of it.

namespace {

using namespace peft_test;
namespace io = peft::io;
using Seeded = peft::NOLA<float>;
using Stored = peft::NOLA<float, peft::StoredBasis<float>>;
using Methods = peft::method_list<Seeded, Stored>;

constexpr LayerShape shape{5, 6};
constexpr std::uint64_t large_seed = (std::uint64_t{1} << 63) + 5;

/// Two layers of one shape with a NOLA each, saved.
struct Saved {
    peft::DenseLinear<float> fc1{random_matrix<float>(shape.out, shape.in, 1)};
    peft::DenseLinear<float> fc2{random_matrix<float>(shape.out, shape.in, 2)};
    Matrix<float> x = random_matrix<float>(3, shape.in, 3);
    Matrix<float> y1, y2;
    peft_test::TemporaryDirectory directory;

    template <class Method> void save() {
        const peft::NOLAOptions options{.rank = 2, .basis_a = 3, .basis_b = 4, .alpha = 3, .seed = large_seed};
        auto one = peft::adapt(fc1, Method(shape, options));
        auto two = peft::adapt(fc2, Method(shape, options));
        disturb(one, 50);
        disturb(two, 60);
        y1 = one.forward(x);
        y2 = two.forward(x);
        peft::Bank<float> bank;
        bank.add("net.fc1", one);
        bank.add("net.fc2", two);
        io::save_adapter(directory.path(), bank);
    }
    std::string config_path() const { return directory.file("adapter_config.json"); }
    peft::Value config() const { return io::parse_json(io::read_file(config_path(), 1u << 20), config_path()); }
    /// Writes the tensors again after a change, without the digest of the configuration.
    template <class Change> void rewrite(const Change& change) { peft_test::rewrite_tensors(directory.file("adapter_model.safetensors"), change); }
    void configure(const char* key, peft::Value value) {
        peft::Value changed = config();
        changed.set(key, std::move(value));
        io::AtomicFile file(config_path());
        file.write(std::string_view(io::dump_json(changed, 2)));
        file.commit();
        rewrite([](std::vector<io::TensorData>&) {});
    }
    /// What loading the first layer says, "" if it works; a failure must take nothing.
    std::string fault() {
        try {
            auto loaded = io::load_adapter<Methods>(directory.path());
            const std::size_t before = loaded.left_over().size();
            try {
                loaded.attach("net.fc1", fc1);
            } catch (const peft::FormatError&) {
                CHECK(loaded.left_over().size() == before);
                throw;
            }
        } catch (const peft::FormatError& error) {
            return error.what();
        }
        return "";
    }
};

auto says(const std::string& text) { return Catch::Matchers::ContainsSubstring(text); }

template <class Method> void check_round_trip() {
    Saved net;
    net.save<Method>();
    auto loaded = io::load_adapter<Methods>(net.directory.path());
    auto one = loaded.attach("net.fc1", net.fc1);
    auto two = loaded.attach("net.fc2", net.fc2);
    loaded.finish();
    REQUIRE(one.method().template get_if<Method>() != nullptr);
    CHECK(one.method().template get_if<Method>()->options().seed == large_seed);
    CHECK(same_bytes(one.forward(net.x), net.y1));
    CHECK(same_bytes(two.forward(net.x), net.y2));
}

}  // namespace

TEST_CASE("registry: a basis is the same under the module's name, and stored and seeded ones are told apart") {
    check_round_trip<Seeded>();
    check_round_trip<Stored>();
    Saved net;
    net.save<Seeded>();
    CHECK(net.config().at("seed").as_unsigned() == large_seed);
    CHECK(net.config().at("prng").as_string() == "peft-counter-v1");
    CHECK(io::SafetensorsFile(net.directory.file("adapter_model.safetensors")).tensors().size() == 6);
}

TEST_CASE("registry: an index tensor that is missing, of another type or of another shape is named") {
    const std::string name = "base_model.model.net.fc1.nola_stream";
    const std::vector<std::int32_t> words(3, 7);
    const auto fault_of = [&](const auto& change) {
        Saved net;
        net.save<Seeded>();
        net.rewrite([&](std::vector<io::TensorData>& tensors) {
            for (std::size_t k = 0; k < tensors.size(); ++k) {
                if (tensors[k].name == name) {
                    change(tensors, k);
                    return;
                }
            }
            FAIL("the file lacks " << name);
        });
        return net.fault();
    };
    CHECK(fault_of([](auto&, std::size_t) {}) == "");
    const std::string missing = fault_of([](auto& tensors, std::size_t k) { tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(k)); });
    CHECK_THAT(missing, says(name) && says("missing") && says("[2]"));
    for (const io::Dtype dtype : {io::Dtype::F32, io::Dtype::U32}) {
        const std::string type = fault_of([&](auto& tensors, std::size_t k) { tensors[k].dtype = dtype; });
        CHECK_THAT(type, says(name) && says("expected I32, found " + std::string(io::dtype_name(dtype))));
    }
    const std::string longer = fault_of([&](auto& tensors, std::size_t k) { tensors[k] = {name, io::Dtype::I32, {3}, std::as_bytes(std::span(words))}; });
    CHECK_THAT(longer, says(name) && says("expected [2], found [3]"));
    const std::string deeper = fault_of([&](auto& tensors, std::size_t k) { tensors[k] = {name, io::Dtype::I32, {1, 2}, std::as_bytes(std::span(words).first(2))}; });
    CHECK_THAT(deeper, says(name) && says("expected [2], found [1, 2]"));
}

TEST_CASE("registry: a basis of another generator is refused by its name") {
    const std::pair<peft::Value, const char*> wrong[] = {
        {peft::Value("torch"), "found \"torch\""}, {peft::Value(), "found null"}, {peft::Value(1), "found 1"}, {peft::Value("peft-counter-v2"), "peft-counter-v2"}};
    for (const auto& [value, text] : wrong) {
        Saved net;
        net.save<Seeded>();
        net.configure("prng", value);
        CHECK_THAT(net.fault(), says("prng") && says("expected peft-counter-v1") && says(text));
    }
    Saved net;
    net.save<Seeded>();
    net.configure("stored_basis", peft::Value("yes"));
    CHECK_THAT(net.fault(), says("stored_basis"));
}

TEST_CASE("registry: an extent that no tensor has is refused before memory is taken for it") {
    for (const std::int64_t extent : {std::int64_t{5000}, std::int64_t{100'000'000'000}, std::int64_t{1} << 61}) {
        Saved net;
        net.save<Seeded>();
        net.configure("num_basis_A", peft::Value(extent));
        CHECK_THAT(net.fault(), says("num_basis_A") && says(std::to_string(extent)));
    }
    Saved net;
    net.save<Seeded>();
    net.configure("num_basis_B", peft::Value(0));
    CHECK_THAT(net.fault(), says("nola: basis_b"));
}

TEST_CASE("registry: a large tensor without elements makes no extent plausible") {
    Saved net;
    net.save<Seeded>();
    net.configure("num_basis_A", peft::Value(100'000));
    net.rewrite([](std::vector<io::TensorData>& tensors) { tensors.push_back({"hollow", io::Dtype::F32, {0, 1'000'000}, {}}); });
    CHECK_THAT(net.fault(), says("num_basis_A") && says("100000"));
}

TEST_CASE("registry: memory for a stored basis is taken only when the file holds it") {
    Saved net;
    net.save<Stored>();
    net.configure("num_basis_B", peft::Value(4096));   // passes as an extent; the basis would be 4096 x out x rank
    CHECK_THAT(net.fault(), says("net.fc1.nola_basis_B") && says("expected [4096, 6, 2], found [4, 6, 2]"));
    net.rewrite([](std::vector<io::TensorData>& tensors) {
        std::erase_if(tensors, [](const io::TensorData& tensor) { return tensor.name.ends_with("nola_basis_A"); });
    });
    CHECK_THAT(net.fault(), says("net.fc1.nola_basis_A") && says("missing"));
}

TEST_CASE("registry: seeds that are one number as doubles are two in a configuration") {
    Saved net;
    auto one = peft::adapt(net.fc1, Seeded(shape, {.rank = 2, .basis_a = 3, .basis_b = 4, .seed = (std::uint64_t{1} << 62) + 1}));
    peft::Value config{peft::Value::Object{}};
    config.set("seed", peft::Value(std::uint64_t{1} << 62));
    peft::Bank<float> bank{config};
    bank.add("net.fc1", one);
    io::save_adapter(net.directory.path(), bank);
    CHECK(net.config().at("seed").as_unsigned() == (std::uint64_t{1} << 62) + 1);
}

namespace {

using VeRA = peft::VeRA<float>;
using Projection = peft::SharedProjection<float>;
using VeRAs = peft::method_list<VeRA>;

}  // namespace

TEST_CASE("registry: a rank of VeRA that no tensor has is refused before memory is taken for it") {
    for (const std::int64_t rank : {std::int64_t{500'000'000}, std::int64_t{1'000'000'000'000'000'000}}) {
        Saved net;
        auto layer = peft::adapt(net.fc1, VeRA(shape, {.rank = 4}));
        peft::Bank<float> bank;
        bank.add("net.fc1", layer);
        io::save_adapter(net.directory.path(), bank);
        net.configure("r", peft::Value(rank));
        auto loaded = io::load_adapter<VeRAs>(net.directory.path());
        CHECK_THROWS_WITH(loaded.attach("net.fc1", net.fc1), says("adapter_config.json: r: no tensor of the file is that large"));
    }
}

TEST_CASE("registry: a projection that files leave out must be the one of their seed") {
    const VeRA::Options options{.rank = 4, .save_projection = false, .projection_seed = 7};
    CHECK_NOTHROW(VeRA(shape, options, Projection::seeded(4, shape, 7)));
    CHECK_THROWS_WITH(VeRA(shape, options, Projection::seeded(4, shape, 8)), says("projection_seed") && says("expected 7, found 8"));
    const auto given = Projection::of(random_matrix<float>(4, shape.in, 1), random_matrix<float>(shape.out, 4, 2));
    CHECK_THROWS_WITH(VeRA(shape, options, given), says("projection_seed") && says("found matrices that were given"));
    CHECK_NOTHROW(VeRA(shape, {.rank = 4}, given));

    // layers that made projections of their own shape
    Saved net;
    peft::DenseLinear<float> wide(random_matrix<float>(9, 8, 4));
    auto one = peft::adapt(net.fc1, VeRA(shape, options));
    auto two = peft::adapt(wide, VeRA({8, 9}, options));
    peft::Bank<float> bank;
    bank.add("net.fc1", one);
    bank.add("net.wide", two);
    CHECK_THROWS_WITH(io::save_adapter(net.directory.path(), bank), says("must share this tensor") && says("vera_A"));

    // a file that says it leaves them out and holds them
    auto saved = peft::adapt(net.fc2, VeRA(shape, {.rank = 4}));
    peft::Bank<float> other;
    other.add("net.fc1", saved);
    io::save_adapter(net.directory.path(), other);
    net.configure("save_projection", peft::Value(false));
    auto loaded = io::load_adapter<VeRAs>(net.directory.path(), {.largest = shape});
    CHECK_THROWS_WITH(loaded.attach("net.fc1", net.fc1), says("save_projection"));
}

TEST_CASE("registry: an attach that fails at the start of the method takes nothing") {
    using PiSSA = peft::PiSSA<float>;
    Saved net;
    auto layer = peft::adapt(net.fc1, PiSSA(shape, {.rank = 2}));
    peft::Bank<float> bank;
    bank.add("net.fc1", layer);
    io::save_adapter(net.directory.path(), bank);
    auto loaded = io::load_adapter<peft::method_list<PiSSA>>(net.directory.path(), {.base = peft::BaseKind::original});
    const std::size_t before = loaded.left_over().size();
    peft::DenseLinear<float> broken = net.fc1;
    broken.stored()(0, 0) = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS_AS(loaded.attach("net.fc1", broken), peft::NumericError);
    CHECK(loaded.left_over().size() == before);
    CHECK_NOTHROW(loaded.attach("net.fc1", net.fc1));
    CHECK_NOTHROW(loaded.finish());
}
