#include "support/catch.hpp"

#include <peft/io/file.hpp>

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "io/scratch.hpp"

using namespace peft;
using peft::io::AtomicFile;
using peft::io::InputFile;
using peft::io::read_file;
using peft::test::Scratch;

namespace {

template <class F> std::string refusal(F&& f) {
    try {
        f();
    } catch (const Error& error) {
        CHECK(test::fit_for_a_log(error.what()));
        return error.what();
    }
    return "accepted";
}

mode_t mode_of(const std::string& path) {
    struct stat status {};
    REQUIRE(::stat(path.c_str(), &status) == 0);
    return status.st_mode & 0777;
}

}  // namespace

TEST_CASE("file: what was written is read back, in one piece or in parts") {
    const Scratch scratch;
    const std::string path = scratch / "a.txt";
    {
        AtomicFile file(path);
        file.write("one ");
        file.write(std::string(200'000, 'x'));
        file.write(" two");
        CHECK_FALSE(std::filesystem::exists(path));
        file.commit();
    }
    const std::string expected = "one " + std::string(200'000, 'x') + " two";
    CHECK(read_file(path, 1'000'000) == expected);
    const InputFile input(path);
    CHECK(input.size() == expected.size());
    std::vector<std::byte> part(4);
    input.read(200'004, part);
    CHECK(std::to_integer<char>(part[1]) == 't');
    CHECK_THAT(refusal([&] { input.read(200'005, part); }), Catch::Matchers::ContainsSubstring("ended while it was read"));
    CHECK(scratch.names() == std::vector<std::string>{"a.txt"});
}

TEST_CASE("file: the old contents stay until commit, and for good without it") {
    const Scratch scratch;
    const std::string path = scratch / "a.txt";
    test::store(path, "old");
    {
        AtomicFile file(path);
        file.write("new");
        CHECK(test::contents(path) == "old");
        CHECK(scratch.names().size() == 2);
        file.finish();
        CHECK(test::contents(path) == "old");
    }
    CHECK(test::contents(path) == "old");
    CHECK(scratch.names().size() == 1);
}

TEST_CASE("file: a file that is open keeps its contents when it is replaced") {
    const Scratch scratch;
    const std::string path = scratch / "a.txt";
    test::store(path, "old!");
    const InputFile input(path);
    AtomicFile file(path);
    file.write("new.");
    file.commit();
    std::string text(4, ' ');
    input.read(0, std::as_writable_bytes(std::span(text)));
    CHECK(text == "old!");
    CHECK(test::contents(path) == "new.");
}

TEST_CASE("file: a new file follows the umask, an old one keeps its permissions") {
    const Scratch scratch;
    const mode_t before = ::umask(027);
    {
        AtomicFile file(scratch / "new");
        file.commit();
    }
    CHECK(mode_of(scratch / "new") == 0640);
    REQUIRE(::chmod((scratch / "new").c_str(), 0604) == 0);
    {
        AtomicFile file(scratch / "new");
        file.commit();
    }
    CHECK(mode_of(scratch / "new") == 0604);
    CHECK(::umask(before) == 027);   // the library never changes it
}

TEST_CASE("file: files that belong together are replaced together") {
    const Scratch scratch;
    test::store(scratch / "a", "old a");
    test::store(scratch / "b", "old b");
    {
        AtomicFile a(scratch / "a");
        AtomicFile b(scratch / "b");
        a.write("new a");
        b.write("new b");
        io::commit_all({&a, &b});
    }
    CHECK(test::contents(scratch / "a") == "new a");
    CHECK(test::contents(scratch / "b") == "new b");
    {
        AtomicFile a(scratch / "a");
        AtomicFile b(scratch / "b");
        a.write("third a");
        b.commit();   // used up: the group can no longer be committed
        CHECK_THROWS_AS(io::commit_all({&a, &b}), FileError);
    }
    CHECK(test::contents(scratch / "a") == "new a");
    CHECK(scratch.names().size() == 2);
}

TEST_CASE("file: what is not a regular file is refused without waiting for it") {
    const Scratch scratch;
    REQUIRE(::mkfifo((scratch / "pipe").c_str(), 0600) == 0);
    REQUIRE(::mkdir((scratch / "dir").c_str(), 0700) == 0);
    REQUIRE(::symlink("nowhere", (scratch / "dangling").c_str()) == 0);
    REQUIRE(::symlink("loop", (scratch / "loop").c_str()) == 0);
    const auto open = [&](const std::string& path) { return refusal([&] { InputFile file(path); }); };
    CHECK_THAT(open(scratch / "pipe"), Catch::Matchers::ContainsSubstring("expected a regular file"));
    CHECK_THAT(open(scratch / "dir"), Catch::Matchers::ContainsSubstring("a directory"));
    CHECK_THAT(open("/dev/zero"), Catch::Matchers::ContainsSubstring("expected a regular file"));
    CHECK_THAT(open(scratch / "dangling"), Catch::Matchers::ContainsSubstring("No such file"));
    CHECK_THAT(open(scratch / "loop"), Catch::Matchers::ContainsSubstring("symbolic links"));
    CHECK_THAT(open(scratch / "missing\xff"), Catch::Matchers::ContainsSubstring("missing\\xff"));
    CHECK_THAT(open(std::string(5000, 'x')), Catch::Matchers::ContainsSubstring("too long"));
    CHECK_THAT(open(""), Catch::Matchers::ContainsSubstring("empty"));
    CHECK_THAT(open(std::string("a\0b", 3)), Catch::Matchers::ContainsSubstring("NUL"));

    const auto replace = [&](const std::string& path) { return refusal([&] { AtomicFile(path).commit(); }); };
    CHECK_THAT(replace(scratch / "pipe"), Catch::Matchers::ContainsSubstring("expected a regular file"));
    CHECK_THAT(replace(scratch / "dir"), Catch::Matchers::ContainsSubstring("a directory"));
    CHECK_THAT(replace(scratch / "dangling"), Catch::Matchers::ContainsSubstring("symbolic link"));
    CHECK_THAT(replace(scratch / "none/a"), Catch::Matchers::ContainsSubstring("none/a"));
    CHECK_THAT(replace(scratch / "a/"), Catch::Matchers::ContainsSubstring("a/"));
    CHECK_THAT(replace(""), Catch::Matchers::ContainsSubstring("empty"));
    CHECK(scratch.names().size() == 4);
}

TEST_CASE("file: through a symbolic link the file it points to is replaced") {
    const Scratch scratch;
    test::store(scratch / "target", "old");
    REQUIRE(::symlink("target", (scratch / "link").c_str()) == 0);
    AtomicFile file(scratch / "link");
    file.write("new");
    file.commit();
    CHECK(std::filesystem::is_symlink(scratch / "link"));
    CHECK(test::contents(scratch / "target") == "new");
}

TEST_CASE("file: a name as long as the system allows can be written") {
    const Scratch scratch;
    const std::string path = scratch / std::string(255, 'n');
    AtomicFile file(path);
    file.write("x");
    file.commit();
    CHECK(test::contents(path) == "x");
}

TEST_CASE("file: a fault while writing keeps the old file and leaves nothing behind") {
    const Scratch scratch;
    const std::string path = scratch / "a";
    test::store(path, "old");
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{100'000, before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    std::string message;
    bool finished_again = true;
    {
        AtomicFile file(path);
        message = refusal([&] {
            file.write(std::string(90'000, 'x'));
            file.write(std::string(90'000, 'y'));
            file.commit();
        });
        finished_again = refusal([&] { file.commit(); }) == "accepted";
    }
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    std::signal(SIGXFSZ, old_handler);
    CHECK_THAT(message, Catch::Matchers::ContainsSubstring("File too large"));
    CHECK_THAT(message, Catch::Matchers::ContainsSubstring(path));
    CHECK_FALSE(finished_again);
    CHECK(test::contents(path) == "old");
    CHECK(scratch.names().size() == 1);
}

TEST_CASE("file: a directory removed meanwhile is an error that names the file") {
    const Scratch scratch;
    const std::string directory = scratch / "d";
    REQUIRE(::mkdir(directory.c_str(), 0700) == 0);
    AtomicFile file(directory + "/a");
    file.write("x");
    std::filesystem::remove_all(directory);
    CHECK_THAT(refusal([&] { file.commit(); }), Catch::Matchers::ContainsSubstring(directory + "/a"));
}

TEST_CASE("file: a moved-from file leaves the temporary to its successor") {
    const Scratch scratch;
    AtomicFile first(scratch / "a");
    first.write("x");
    AtomicFile second(std::move(first));
    second.commit();
    CHECK(test::contents(scratch / "a") == "x");
}

TEST_CASE("file: nothing beyond the limit is read") {
    const Scratch scratch;
    test::store(scratch / "a", "12345");
    CHECK(read_file(scratch / "a", 5) == "12345");
    CHECK_THAT(refusal([&] { read_file(scratch / "a", 4); }), Catch::Matchers::ContainsSubstring("at most 4 bytes, found 5"));
    // sparse: opening must not depend on the size
    test::store(scratch / "b", "");
    std::filesystem::resize_file(scratch / "b", std::uintmax_t{1} << 41);
    CHECK_THAT(refusal([&] { read_file(scratch / "b", 1'000'000); }), Catch::Matchers::ContainsSubstring("too large"));
}
