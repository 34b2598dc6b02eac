// Shared memory that is not accepted as a value, and what is left of it.
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <filesystem>
#include <functional>
#include <gtest/gtest.h>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>
#include <vector>

#include "support/descriptors.hpp"
#include "support/sanitizers.hpp"
#include "support/seccomp.hpp"
#include "support/shared_memory.hpp"
#include "support/shared_message.hpp"

namespace {

using namespace support;
using drover::detail::FdIdentity;
using drover::detail::identity_of;
using drover::detail::SharedAccess;

TEST(CodecShared, ThatCanStillChangeIsRefused) {
  const std::string change = "shared memory was sent that its sender can still change";
  for (const int seals : {0, F_SEAL_SHRINK, F_SEAL_WRITE, F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_SHRINK | F_SEAL_WRITE,
                          F_SEAL_GROW | F_SEAL_WRITE, seals_of_block})
    EXPECT_EQ(refusal_of(memory_file("text", seals), 4), change) << seals;
  EXPECT_EQ(refusal_of(memory_file("text", seals_of_memory), 4), "accepted");
  EXPECT_EQ(refusal_of(memory_file("text", 0, 0), 4), change);  // it is sealed against further seals
}

TEST(CodecShared, ThatATrustedSenderCanTruncateIsRefused) {
  const std::string truncate = "shared memory was sent that its sender can still truncate";
  for (const int seals : {0, F_SEAL_SHRINK, F_SEAL_WRITE, F_SEAL_GROW})
    EXPECT_EQ(refusal_of(memory_file("text", seals), 4, Close::elsewhere), truncate) << seals;
  EXPECT_EQ(refusal_of(memory_file("text", seals_of_block), 4, Close::elsewhere), "accepted");
  EXPECT_EQ(refusal_of(memory_file("text", seals_of_block), 5, Close::elsewhere),
            "shared memory of 4 bytes was sent as 5");
}

TEST(CodecShared, OfAnotherSizeIsRefused) {
  const UniqueFd file = memory_file("text", seals_of_memory);
  EXPECT_EQ(refusal_of(file, 5), "shared memory of 4 bytes was sent as 5");
  EXPECT_EQ(refusal_of(file, 3), "shared memory of 4 bytes was sent as 3");
  EXPECT_EQ(refusal_of(file, UINT64_MAX), "shared memory of 4 bytes was sent as 18446744073709551615");
  EXPECT_EQ(refusal_of(file, 0), "the message has descriptors that belong to none of its values: 1");
}

/// A file of one size that takes the memory of another one.
UniqueFd file_of(std::size_t size, off_t at, std::size_t allocated) {
  UniqueFd file = memory_file("", 0);
  if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0 ||
      (allocated != 0 && ::fallocate(file.get(), FALLOC_FL_KEEP_SIZE, at, static_cast<off_t>(allocated)) != 0) ||
      ::fcntl(file.get(), F_ADD_SEALS, seals_of_memory) != 0)
    throw std::runtime_error("fallocate");
  return file;
}

// A result of one byte would keep gigabytes.
TEST(CodecShared, ThatTakesMoreMemoryThanItHasIsRefused) {
  constexpr std::size_t large = std::size_t{16} << 20;
  EXPECT_EQ(refusal_of(file_of(1, 0, large), 1), "shared memory of 1 bytes was sent that takes 16777216");
  EXPECT_EQ(refusal_of(file_of(large, 0, large), large), "accepted");
}

// To read it is to allocate it, which may end this process.
TEST(CodecShared, ThatIsSparseIsRefused) {
  constexpr std::size_t size = std::size_t{1} << 20;
  EXPECT_EQ(refusal_of(file_of(size, 0, 0), size), "shared memory was sent of which its sender has allocated a part");
  EXPECT_EQ(refusal_of(file_of(size, 4096, size - 4096), size),
            "shared memory was sent of which its sender has allocated a part");
  EXPECT_EQ(refusal_of(file_of(size, 0, size), size), "accepted");
}

// What it has beyond its end hides that.
TEST(CodecShared, ThatIsSparseIsAllocatedWhileItIsReceived) {
  constexpr std::size_t size = std::size_t{1} << 20;
  const UniqueFd file = file_of(size, size, size);
  struct stat before{}, after{};
  ASSERT_EQ(::fstat(file.get(), &before), 0);
  const Text text = Message().with_file(file, size).get<Text>();
  ASSERT_EQ(::fstat(file.get(), &after), 0);
  EXPECT_EQ(static_cast<std::size_t>(after.st_blocks - before.st_blocks) * 512, size);
  EXPECT_EQ(text.view(), std::string(size, '\0'));
}

TEST(CodecShared, ThatIsSomethingElseIsRefused) {
  const std::string other = "expected shared memory, found a descriptor of something else";
  EXPECT_EQ(refusal_of(pipe_with("text"), 4), other);
  EXPECT_EQ(refusal_of(UniqueFd(::open("/etc/passwd", O_RDONLY | O_CLOEXEC)), 4), other);
  EXPECT_EQ(refusal_of(UniqueFd(::open("/dev/zero", O_RDWR | O_CLOEXEC)), 4), other);
  EXPECT_EQ(refusal_of(UniqueFd(::open("/", O_PATH | O_CLOEXEC)), 4),
            "expected shared memory, found a descriptor of something else");
  const UniqueFd huge(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB));
  if (huge && ::fcntl(huge.get(), F_ADD_SEALS, seals_of_memory) == 0) {
    EXPECT_EQ(refusal_of(huge, 4), "shared memory of huge pages is not accepted");
  }
}

// It can be opened anew for writing only, and then not be mapped.
TEST(CodecShared, ThatCannotBeReadIsRefused) {
  const UniqueFd file = memory_file("text", seals_of_memory);
  const UniqueFd writing(::open(("/proc/self/fd/" + std::to_string(file.get())).c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(writing);
  EXPECT_NE(refusal_of(writing, 4).find("Permission denied"), std::string::npos);
}

TEST(CodecShared, AboveTheLimitOfAMessageIsRefused) {
  const auto get = [](std::size_t most) {
    Message message;
    message.most = most;
    message.with(Text::copy_of("1234"), Text::copy_of("5678"));
    return refusal([&] {
      message.body.end_piece();
      Decoder in(message.body.front(), message.descriptors, 1 << 20);
      in.limit_shared(most);
      (void)in.get<Text>();
      (void)in.get<Text>();
    });
  };
  EXPECT_EQ(get(8), "accepted");
  EXPECT_EQ(get(7), "shared memory of 4 bytes, where at most 3 are allowed");
}

TEST(CodecShared, WithoutItsDescriptorIsRefused) {
  Message message;
  message.with(Text::copy_of("text"));
  message.descriptors.clear();
  EXPECT_EQ(refusal([&] { (void)message.get<Text>(); }), "expected a descriptor that was not sent with the message");
}

// A refused value leaves nothing behind, however it is refused.
TEST(CodecShared, ThatIsRefusedLeavesNothing) {
  std::vector<FdIdentity> files;  // counting descriptors is not enough: other threads close those of other tests
  const auto seen = [&](int file) { files.push_back(identity_of(file).value()); };
  const std::size_t mappings = shared_mappings().size();
  for (int i = 0; i < 10; ++i) {
    const UniqueFd unsealed = memory_file("text", 0), sealed = memory_file("text", seals_of_memory);
    seen(unsealed.get());
    seen(sealed.get());
    (void)refusal_of(unsealed, 4, Close::elsewhere);
    (void)refusal_of(sealed, 5, Close::elsewhere);
    const Text text = Text::copy_of("text");
    seen(SharedAccess::memory(text)->file());
    Message message(Close::elsewhere);
    message.with(text, 5);
    (void)refusal([&] { (void)message.get<Text>(); });
  }
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const auto file = identity_of(std::stoi(entry.path().filename()));
    EXPECT_TRUE(!file || std::find(files.begin(), files.end(), *file) == files.end()) << entry.path();
  }
  EXPECT_EQ(shared_mappings().size(), mappings);
}

/// Its result in a copy of this process whose kernel refuses a system call, or only one with that second argument.
int in_a_copy(long syscall, int error, const std::function<int()>& body, int second = 0) {
  const pid_t copy = ::fork();
  if (copy == 0) {
    refuse({{.syscall = syscall, .error = error, .signo = second}});
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(copy, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// As before Linux 5.14.
TEST(CodecShared, IsCopiedWhereItCannotBeCheckedForHoles) {
  constexpr std::size_t size = std::size_t{1} << 20;
  const UniqueFd sparse = file_of(size, size, size), file = memory_file("text", seals_of_memory);
  const std::size_t mapped = shared_mappings().size();
  const int result = in_a_copy(SYS_madvise, EINVAL, [&] {
    const Text zeros = Message().with_file(sparse, size).get<Text>(), text = Message().with_file(file, 4).get<Text>();
    return zeros.view() == std::string(size, '\0') && text.view() == "text" && shared_mappings().size() == mapped ? 0
                                                                                                                  : 1;
  });
  EXPECT_EQ(result, 0);
}

// Such as memory that may not be locked: the sender is not to blame.
TEST(CodecShared, ThatCannotBeMappedHereIsNotRefused) {
  const UniqueFd file = memory_file("text", seals_of_memory);
  const auto code_of_failure = [&] {
    try {
      (void)Message().with_file(file, 4).get<Text>();
    } catch (const std::system_error& error) {
      return error.code().value();
    } catch (...) {
    }
    return 0;
  };
  const int result = in_a_copy(SYS_mmap, EAGAIN, code_of_failure, 4);  // these four bytes alone: a sanitizer maps more
  EXPECT_EQ(result, EAGAIN);
}

// There is no address space left to map it.
TEST(CodecShared, WithoutAddressSpaceIsOutOfMemory) {
#if defined(DROVER_TEST_ASAN) || defined(DROVER_TEST_TSAN)
  constexpr bool limits_work = false;  // it is all reserved
#else
  constexpr bool limits_work = true;
#endif
  constexpr std::size_t size = limits_work ? std::size_t{1} << 30 : std::size_t{1} << 50;
  const UniqueFd file = memory_file("", 0);
  ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(size)), 0);
  ASSERT_EQ(::fcntl(file.get(), F_ADD_SEALS, seals_of_memory), 0);
  rlimit limit{};
  ::getrlimit(RLIMIT_AS, &limit);
  rlimit little = limit;
  little.rlim_cur = std::size_t{512} << 20;
  if (limits_work) ::setrlimit(RLIMIT_AS, &little);
  int error = 0;
  try {
    (void)Message(Close::elsewhere).with_file(file, size).get<Text>();
  } catch (const std::system_error& thrown) {
    error = thrown.code().value();
  }
  ::setrlimit(RLIMIT_AS, &limit);
  EXPECT_EQ(error, ENOMEM);
}

}  // namespace
