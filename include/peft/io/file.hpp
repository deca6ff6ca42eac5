#pragma once
#include <peft/core/error.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

PEFT_ISA_DETAIL_BEGIN

/// FileError with what the system says about `code`.
[[noreturn]] PEFT_COLD inline void file_fault(const std::string& path, std::string_view what, int code) {
    throw FileError(what, {.file = path, .found = std::generic_category().message(code)});
}

/// Paths end at a NUL for the system: one inside would name another file than the caller printed.
inline void check_path(const std::string& path) {
    if (path.empty()) throw FileError("the path of a file is empty");
    if (path.find('\0') != std::string::npos) throw FileError("a path must not contain a NUL byte", {.file = path});
}

/// Largest piece of one read or write call: macOS refuses above INT_MAX, Linux shortens.
inline constexpr std::size_t io_piece = std::size_t{1} << 30;

/// An open descriptor.
class Descriptor {
public:
    explicit Descriptor(int number = -1) noexcept : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(number_, other.number_);
        return *this;
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    int get() const noexcept { return number_; }
    explicit operator bool() const noexcept { return number_ >= 0; }
    /// Zero, or the errno of close: on network file systems a write may fail only here.
    int close() noexcept {
        const int number = std::exchange(number_, -1);
        // EINTR: Linux has closed it; closing again could hit a descriptor of another thread
        return number < 0 || ::close(number) == 0 || errno == EINTR ? 0 : errno;
    }

private:
    int number_;
};

inline int open_retrying(int directory, const char* name, int flags, mode_t mode = 0) noexcept {
    int result = -1;
    do result = ::openat(directory, name, flags | O_CLOEXEC, mode);
    while (result < 0 && errno == EINTR);
    return result;
}

PEFT_ISA_DETAIL_END

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// A regular file open for reading. Reads name their place, so that const calls may run in several threads. What was open
/// stays readable when another file takes its name.
class InputFile {
public:
    InputFile() noexcept = default;
    /// Throws FileError if the file cannot be opened or is not a regular file (a directory, a pipe, a device).
    explicit InputFile(std::string path) : path_(std::move(path)) {
        detail::check_path(path_);
        // O_NONBLOCK: opening a pipe that nobody writes to would wait for ever; regular files do not care
        file_ = detail::Descriptor(detail::open_retrying(AT_FDCWD, path_.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY));
        if (!file_) detail::file_fault(path_, "cannot open the file", errno);
        struct stat status {};
        if (::fstat(file_.get(), &status) != 0) detail::file_fault(path_, "cannot ask for the size of the file", errno);
        if (!S_ISREG(status.st_mode)) {
            throw FileError("cannot read this", {.file = path_,
                                                 .expected = "a regular file",
                                                 .found = S_ISDIR(status.st_mode) ? "a directory" : "a pipe, socket or device"});
        }
        size_ = static_cast<std::uint64_t>(status.st_size);
    }

    const std::string& path() const noexcept { return path_; }
    /// Bytes when it was opened.
    std::uint64_t size() const noexcept { return size_; }

    /// Fills `out` from byte `offset` on. Throws FileError if the file ends before, or on any fault of the system.
    void read(std::uint64_t offset, std::span<std::byte> out) const {
        std::size_t done = 0;
        while (done < out.size()) {
            const std::size_t piece = std::min(out.size() - done, detail::io_piece);
            const auto count = ::pread(file_.get(), out.data() + done, piece, static_cast<off_t>(offset + done));
            if (count < 0 && errno == EINTR) continue;
            if (count < 0) detail::file_fault(path_, "cannot read the file", errno);
            if (count == 0) {
                throw FileError("the file ended while it was read",
                                {.file = path_,
                                 .expected = std::to_string(out.size()) + " bytes at " + std::to_string(offset),
                                 .found = std::to_string(done)});
            }
            done += static_cast<std::size_t>(count);
        }
    }

private:
    std::string path_;
    detail::Descriptor file_;
    std::uint64_t size_ = 0;
};

/// The whole of a file of at most `limit` bytes; nothing is allocated for a larger one.
/// Throws FileError, or FormatError above the limit.
inline std::string read_file(const std::string& path, std::uint64_t limit) {
    const InputFile file(path);
    if (file.size() > limit) {
        throw FormatError("the file is too large", {.file = path,
                                                    .expected = "at most " + std::to_string(limit) + " bytes",
                                                    .found = std::to_string(file.size())});
    }
    std::string text(static_cast<std::size_t>(file.size()), '\0');
    file.read(0, std::as_writable_bytes(std::span(text)));
    return text;
}

/// A file that appears whole or not at all: it is written under a temporary name in the same directory, synced, and takes
/// its name by commit(). Until then, and after any fault, the old file is untouched; without commit() the temporary file
/// is removed. An old file's permission bits are kept, a new one gets what the umask leaves of 0666. A symbolic link is
/// followed: the file it points to is replaced. Every function throws FileError with path and reason.
class AtomicFile {
public:
    explicit AtomicFile(std::string path) : path_(std::move(path)) {
        detail::check_path(path_);
        std::string target = path_;
        mode_t mode = 0;
        struct stat status {};
        if (::lstat(path_.c_str(), &status) == 0) {
            if (S_ISLNK(status.st_mode)) {
                char* resolved = ::realpath(path_.c_str(), nullptr);
                if (resolved == nullptr) detail::file_fault(path_, "cannot follow the symbolic link", errno);
                try {
                    target = resolved;
                } catch (...) {
                    std::free(resolved);
                    throw;
                }
                std::free(resolved);
                if (::stat(target.c_str(), &status) != 0) detail::file_fault(path_, "cannot look at the file", errno);
            }
            if (!S_ISREG(status.st_mode)) {
                throw FileError("cannot replace this", {.file = path_,
                                                        .expected = "a regular file",
                                                        .found = S_ISDIR(status.st_mode) ? "a directory" : "something else"});
            }
            mode = status.st_mode & 0777;
            keeps_mode_ = true;
        } else if (errno != ENOENT) {
            detail::file_fault(path_, "cannot look at the file", errno);
        }
        const std::size_t slash = target.rfind('/');
        const std::string directory = slash == std::string::npos ? "." : slash == 0 ? "/" : target.substr(0, slash);
        name_ = slash == std::string::npos ? target : target.substr(slash + 1);
        if (name_.empty()) throw FileError("the path names no file", {.file = path_});
        // held open: it must be synced after the rename, and that it can be opened is known before anything changes
        directory_ = detail::Descriptor(detail::open_retrying(AT_FDCWD, directory.c_str(), O_RDONLY | O_DIRECTORY));
        if (!directory_) detail::file_fault(path_, "cannot open the directory of the file", errno);
        create_temporary();
        if (keeps_mode_ && ::fchmod(file_.get(), mode) != 0) {
            const int code = errno;
            discard();
            detail::file_fault(path_, "cannot keep the permissions of the file", code);
        }
    }
    AtomicFile(AtomicFile&& other) noexcept
        : path_(std::move(other.path_)), name_(std::move(other.name_)), temporary_(std::move(other.temporary_)),
          buffer_(std::move(other.buffer_)), directory_(std::move(other.directory_)), file_(std::move(other.file_)),
          keeps_mode_(other.keeps_mode_) {
        other.temporary_.clear();
    }
    AtomicFile& operator=(AtomicFile&&) = delete;
    ~AtomicFile() { discard(); }

    const std::string& path() const noexcept { return path_; }

    /// Appends. Small pieces are gathered.
    void write(std::span<const std::byte> bytes) { write(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size())); }
    void write(std::string_view text) {
        if (!file_) throw FileError("the file is finished or given up, nothing can be added", {.file = path_});
        if (buffer_.size() + text.size() > buffer_limit) {
            flush();
            if (text.size() > buffer_limit) return write_through(text);
        }
        buffer_ += text;
    }

    /// Brings what was written to the disk and closes the temporary file; part of commit(). After it nothing can be added.
    void finish() {
        if (temporary_.empty()) throw FileError("the file is committed or given up", {.file = path_});
        if (!file_) return;
        flush();
        while (::fsync(file_.get()) != 0) {
            if (errno != EINTR) give_up("cannot bring the file to the disk", errno);
        }
        if (const int code = file_.close(); code != 0) give_up("cannot close the file", code);
    }

    /// Gives the file its name: the old contents until here, the new from here on, also after a loss of power.
    void commit() {
        finish();
        rename();
        sync_directory();
    }

private:
    friend void commit_all(std::initializer_list<AtomicFile*> files);

    static constexpr std::size_t buffer_limit = std::size_t{1} << 16;

    void create_temporary() {
        // not derived from the name, which may be as long as the file system allows; O_EXCL decides about uniqueness
        timespec now{};
        ::clock_gettime(CLOCK_REALTIME, &now);
        for (unsigned attempt = 0;; ++attempt) {
            char text[96];
            std::snprintf(text, sizeof text, ".peft-tmp-%lld-%lld-%09ld-%u", static_cast<long long>(::getpid()),
                          static_cast<long long>(now.tv_sec), static_cast<long>(now.tv_nsec), attempt);
            std::string name(text);
            file_ = detail::Descriptor(
                detail::open_retrying(directory_.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0666));
            if (file_) {
                temporary_ = std::move(name);
                return;
            }
            if (errno != EEXIST || attempt == 1000) detail::file_fault(path_, "cannot create a temporary file beside it", errno);
        }
    }
    void flush() {
        const std::string pending = std::exchange(buffer_, {});
        write_through(pending);
    }
    void write_through(std::string_view text) {
        while (!text.empty()) {
            const auto count = ::write(file_.get(), text.data(), std::min(text.size(), detail::io_piece));
            if (count < 0 && errno == EINTR) continue;
            if (count < 0) give_up("cannot write the file", errno);
            if (count == 0) give_up("cannot write the file", EIO);   // would loop for ever
            text.remove_prefix(static_cast<std::size_t>(count));
        }
    }
    void rename() {
        if (::renameat(directory_.get(), temporary_.c_str(), directory_.get(), name_.c_str()) != 0) {
            give_up("cannot give the file its name", errno);
        }
        temporary_.clear();
    }
    void sync_directory() {
        while (::fsync(directory_.get()) != 0) {
            // EINVAL: a file system whose directories cannot be synced
            if (errno == EINVAL) return;
            if (errno != EINTR) detail::file_fault(path_, "the file is replaced, but the directory cannot be brought to the disk", errno);
        }
    }
    [[noreturn]] void give_up(std::string_view what, int code) {
        discard();
        detail::file_fault(path_, what, code);
    }
    void discard() noexcept {
        file_.close();
        if (!temporary_.empty()) ::unlinkat(directory_.get(), temporary_.c_str(), 0);
        temporary_.clear();
    }

    std::string path_;
    std::string name_;        // in the directory
    std::string temporary_;   // empty: there is none
    std::string buffer_;
    detail::Descriptor directory_;
    detail::Descriptor file_;
    bool keeps_mode_ = false;
};

/// Commits files that belong together: all are brought to the disk first, then take their names in the order given. A fault
/// before the first name is taken changes nothing. A crash between two names leaves new files before old ones, so whoever
/// reads them needs a digest of one in the other.
inline void commit_all(std::initializer_list<AtomicFile*> files) {
    for (AtomicFile* file : files) file->finish();
    for (AtomicFile* file : files) file->rename();
    for (AtomicFile* file : files) file->sync_directory();
}

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
