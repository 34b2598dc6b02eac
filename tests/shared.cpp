// Shared text and bytes in the process that creates them: their memory, and when it is used again.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <type_traits>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/wire/shared.hpp>
#include <drover/wire/shared_blocks.hpp>

#include "support/shared_memory.hpp"

namespace {

using namespace support;
using drover::Shared;
using drover::SharedBlocks;
using drover::SharedDraft;
using drover::UniqueFd;
using drover::detail::Sealing;
using drover::detail::SharedAccess;

using Text = Shared<std::string>;
using Bytes = Shared<std::vector<std::byte>>;

static_assert(std::is_copy_constructible_v<Text> && std::is_nothrow_move_constructible_v<Bytes>);
static_assert(!std::is_copy_constructible_v<SharedDraft<std::string>>);
static_assert(std::is_same_v<decltype(Text().view()), std::string_view>);

int seals_of(const Text& text) { return ::fcntl(SharedAccess::memory(text)->file(), F_GET_SEALS); }

TEST(Shared, HasACopyOfTheBytes) {
  std::string source = "some text";
  const Text text = Text::copy_of(source);
  source[0] = 'x';
  EXPECT_EQ(text.view(), "some text");
  EXPECT_EQ(text.size(), 9u);
  const Bytes bytes = Bytes::copy_of(bytes_of("a\0b"));
  EXPECT_EQ(text_of(bytes.view()), "a\0b");
  const std::string large(5'000'001, 'x');
  EXPECT_EQ(Text::copy_of(large).view(), large);
}

TEST(Shared, WithoutBytesHasNoMemory) {
  const std::size_t before = open_descriptors_here();
  const Text none, copied = Text::copy_of("");
  SharedDraft<std::string> draft(0);
  EXPECT_TRUE(draft.bytes().empty());
  const Text sealed = std::move(draft).seal();
  EXPECT_EQ(open_descriptors_here(), before);
  EXPECT_TRUE(none.empty() && copied.empty() && sealed.empty());
  EXPECT_EQ(copied.view(), "");
  EXPECT_TRUE(Bytes().view().empty());
}

TEST(Shared, CannotBeChangedByAnybody) {
  const Text text = Text::copy_of("text");
  EXPECT_EQ(seals_of(text) & seals_of_memory, seals_of_memory);
  const int file = SharedAccess::memory(text)->file();
  EXPECT_NE(::fcntl(file, F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(::mmap(nullptr, 4, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), MAP_FAILED);
  EXPECT_EQ(::pwrite(file, "x", 1, 0), -1);
  EXPECT_EQ(::ftruncate(file, 0), -1);
}

// A write to it ends the process.
TEST(Shared, IsMappedForReadingOnly) {
  const Text text = Text::copy_of("text");
  char* const place = const_cast<char*>(text.view().data());
  EXPECT_DEATH(*static_cast<volatile char*>(place) = 'x', "");
}

TEST(Shared, FreesItsMemoryWithTheLastCopy) {
  const std::size_t descriptors = open_descriptors_here();
  const std::size_t mappings = shared_mappings().size();
  {
    std::optional<Text> first(Text::copy_of("text"));
    const Text second = *first, third = std::move(*first);
    first.reset();
    EXPECT_EQ(second.view(), "text");
    EXPECT_EQ(third.view().data(), second.view().data());
    EXPECT_EQ(open_descriptors_here(), descriptors + 1);
    EXPECT_EQ(shared_mappings().size(), mappings + 1);
  }
  EXPECT_EQ(open_descriptors_here(), descriptors);
  EXPECT_EQ(shared_mappings().size(), mappings);
}

TEST(Shared, WithoutADescriptorIsAnError) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  rlimit none = limit;
  none.rlim_cur = 3;
  ::setrlimit(RLIMIT_NOFILE, &none);
  int error = 0;
  try {
    (void)Text::copy_of("text");
  } catch (const std::system_error& thrown) {
    error = thrown.code().value();
  }
  ::setrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_EQ(error, EMFILE);
}

// The kernel sends SIGXFSZ, which ends the process, for a write beyond it.
TEST(Shared, AboveTheLimitOfFilesIsAnError) {
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  rlimit little = limit;
  little.rlim_cur = 100'000;
  const std::string large(100'001, 'x');
  SharedBlocks blocks;
  const auto error_of = [](auto make) {
    try {
      make();
    } catch (const std::system_error& thrown) {
      return thrown.code().value();
    }
    return 0;
  };
  ::setrlimit(RLIMIT_FSIZE, &little);
  const int copy = error_of([&] { (void)Text::copy_of(large); });
  const int draft = error_of([&] { SharedDraft<std::string>(100'001); });
  const int block = error_of([&] { (void)blocks.draft<std::string>(100'001); });
  const int within = error_of([&] { (void)Text::copy_of(std::string_view(large).substr(1)); });
  ::setrlimit(RLIMIT_FSIZE, &limit);
  EXPECT_EQ(copy, EFBIG);
  EXPECT_EQ(draft, EFBIG);
  EXPECT_EQ(block, EFBIG);
  EXPECT_EQ(within, 0);
}

TEST(Shared, TooLargeForTheProcessIsAnError) {
  const std::size_t before = open_descriptors_here();
  EXPECT_THROW(SharedDraft<std::string>(std::size_t{1} << 60), std::system_error);
  EXPECT_THROW(SharedDraft<std::string>(SIZE_MAX), std::system_error);
  EXPECT_THROW((void)SharedBlocks().draft<std::string>(SIZE_MAX), std::bad_alloc);
  EXPECT_EQ(open_descriptors_here(), before);
}

TEST(SharedDraft, IsFilledInPlace) {
  SharedDraft<std::string> draft(8);
  ASSERT_EQ(draft.bytes().size(), 8u);
  EXPECT_EQ(draft.bytes()[7], '\0');
  std::memcpy(draft.bytes().data(), "12345678", 8);
  const Text text = std::move(draft).seal();
  EXPECT_EQ(text.view(), "12345678");
  EXPECT_EQ(seals_of(text) & seals_of_memory, seals_of_memory);
  EXPECT_TRUE(draft.bytes().empty());  // NOLINT(bugprone-use-after-move): a moved-from draft is empty
}

TEST(SharedDraft, IsCutOffWhereItIsSealed) {
  SharedDraft<std::string> draft(1 << 20);
  std::memcpy(draft.bytes().data(), "12345678", 8);
  const Text text = std::move(draft).seal(3);
  EXPECT_EQ(text.view(), "123");
  EXPECT_EQ(::lseek(SharedAccess::memory(text)->file(), 0, SEEK_END), 3);
  EXPECT_TRUE(SharedDraft<std::string>(5).operator=(SharedDraft<std::string>(6)).bytes().size() == 6);
  EXPECT_TRUE(std::move(SharedDraft<std::string>(5)).seal(0).empty());
  EXPECT_THROW((void)SharedDraft<std::string>(5).seal(6), std::invalid_argument);
}

// The program has closed drover's descriptors, as daemons do, and has opened a file of its own under the number.
TEST(SharedDraft, WhoseDescriptorIsLostIsCopied) {
  const UniqueFd own = memory_file("a file of the program", 0);
  const int number = UniqueFd(::fcntl(own.get(), F_DUPFD_CLOEXEC, 3)).get();
  SharedDraft<std::string> draft(8);
  std::memcpy(draft.bytes().data(), "12345678", 8);
  struct stat before{}, status{};
  ASSERT_EQ(::fstat(number, &before), 0);
  ASSERT_EQ(before.st_size, 8) << "the draft has another number";
  ASSERT_EQ(::dup3(own.get(), number, O_CLOEXEC), number);
  const UniqueFd taken(number);
  const Text text = std::move(draft).seal(3);
  EXPECT_EQ(text.view(), "123");
  EXPECT_EQ(seals_of(text) & seals_of_memory, seals_of_memory);
  ASSERT_EQ(::fstat(own.get(), &status), 0);
  EXPECT_EQ(status.st_size, 21);
  EXPECT_EQ(::fcntl(own.get(), F_GET_SEALS), 0);
}

// Writing to memory that has to be found first may be a SIGBUS.
TEST(SharedDraft, HasItsMemoryFromTheBeginning) {
  const auto allocated = [](const Text& text) {
    struct stat status{};
    ::fstat(SharedAccess::memory(text)->file(), &status);
    return static_cast<std::size_t>(status.st_blocks) * 512;
  };
  constexpr std::size_t size = 20'000'000;
  EXPECT_GE(allocated(SharedDraft<std::string>(size).seal()), size);
  SharedBlocks blocks;
  EXPECT_GE(allocated(blocks.draft<std::string>(size).seal()), size);
}

TEST(SharedBlocks, AreUsedAgain) {
  SharedBlocks blocks;
  const char* first = nullptr;
  {
    const Text text = blocks.copy_of<std::string>("text");
    EXPECT_EQ(text.view(), "text");
    EXPECT_EQ(seals_of(text) & seals_of_block, seals_of_block);
    EXPECT_EQ(SharedAccess::memory(text)->sealing(), Sealing::block);
    first = text.view().data();
  }
  const Text again = blocks.copy_of<std::string>("other text");
  EXPECT_EQ(again.view().data(), first);
  const Text other = blocks.copy_of<std::string>("third");
  EXPECT_NE(other.view().data(), first);
  EXPECT_EQ(again.view(), "other text");
}

TEST(SharedBlocks, ThatDraftsHadAreUsedAgain) {
  SharedBlocks blocks;
  const char* first = nullptr;
  {
    auto draft = blocks.draft<std::string>(100);
    first = draft.bytes().data();
  }
  auto draft = blocks.draft<std::string>(60'000);
  EXPECT_EQ(draft.bytes().data(), first);
  const Text text = std::move(draft).seal(10);
  EXPECT_EQ(text.size(), 10u);
  EXPECT_TRUE(blocks.copy_of<std::string>("").empty());
}

TEST(SharedBlocks, OfOtherSizesAreNotWasted) {
  SharedBlocks blocks;
  const std::string large(1 << 20, 'x');
  (void)blocks.copy_of<std::string>(large);
  const std::size_t before = shared_mappings().size();
  const Text small = blocks.copy_of<std::string>("small");
  EXPECT_EQ(shared_mappings().size(), before + 1);
  const Text same = blocks.copy_of<std::string>(large);
  EXPECT_EQ(shared_mappings().size(), before + 1);
}

TEST(SharedBlocks, AreKeptUpToALimit) {
  const std::size_t before = shared_mappings().size();
  const std::string half(512 << 10, 'x');
  {
    SharedBlocks blocks(1 << 20);
    {
      const Text one = blocks.copy_of<std::string>(half), two = one, three = blocks.copy_of<std::string>(half),
                 four = blocks.copy_of<std::string>(half);
      EXPECT_EQ(shared_mappings().size(), before + 3);
    }
    EXPECT_EQ(shared_mappings().size(), before + 2);
    SharedBlocks none(0);
    (void)none.copy_of<std::string>(half);
    EXPECT_EQ(shared_mappings().size(), before + 2);
  }
  EXPECT_EQ(shared_mappings().size(), before);
}

// Each of them keeps a descriptor open.
TEST(SharedBlocks, AreKeptUpToANumber) {
  const std::size_t before = open_descriptors_here();
  SharedBlocks blocks;
  const char* last = nullptr;
  {
    std::vector<Text> many;
    for (int i = 0; i < 100; ++i) many.push_back(blocks.copy_of<std::string>("text"));
    EXPECT_EQ(open_descriptors_here(), before + 100);
    last = many.back().view().data();
    while (!many.empty()) many.erase(many.begin());
  }
  EXPECT_EQ(open_descriptors_here(), before + 64);
  const Text again = blocks.copy_of<std::string>("text");
  EXPECT_EQ(again.view().data(), last);
}

TEST(SharedBlocks, MayEndBeforeTheirValues) {
  const std::size_t before = open_descriptors_here();
  {
    Text text;
    {
      SharedBlocks blocks;
      text = blocks.copy_of<std::string>("text");
    }
    EXPECT_EQ(text.view(), "text");
  }
  EXPECT_EQ(open_descriptors_here(), before);
}

// What a block of another value had is never in a value of another thread.
TEST(SharedBlocks, AreForAnyThread) {
  SharedBlocks blocks;
  const auto work = [&](char letter) {
    for (int i = 0; i < 2000; ++i) {
      const std::string wanted(1000, letter);
      const Text text = blocks.copy_of<std::string>(wanted);
      if (text.view() != wanted) ADD_FAILURE() << "another thread wrote to it";
    }
  };
  std::thread other(work, 'b');
  work('a');
  other.join();
}

// Threads that get blocks at the same moment wait for each other, and lose none.
TEST(SharedBlocks, AreNotLostBetweenThreads) {
  SharedBlocks blocks;
  std::vector<std::thread> threads;
  {
    std::vector<Text> first;
    for (int i = 0; i < 4; ++i) first.push_back(blocks.copy_of<std::string>("text"));
  }
  const std::size_t before = shared_mappings().size();
  const std::size_t descriptors = open_descriptors_here();
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 20'000; ++round) (void)blocks.draft<std::string>(100);
    });
  for (std::thread& each : threads) each.join();
  EXPECT_EQ(shared_mappings().size(), before);
  EXPECT_EQ(open_descriptors_here(), descriptors);
}

// Both would write to the same memory.
TEST(SharedBlocks, AreNotUsedAgainInAForkedCopy) {
  SharedBlocks blocks;
  (void)blocks.copy_of<std::string>("text");
  Text held = blocks.copy_of<std::string>("held");
  const pid_t copy = ::fork();
  if (copy == 0) {
    {
      const Text dropped = std::move(held);
    }
    const Text first = blocks.copy_of<std::string>("copied"), second = blocks.copy_of<std::string>("copied");
    ::_exit(first.view() == second.view() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(copy, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(held.view(), "held");
  const Text again = blocks.copy_of<std::string>("text");
  EXPECT_EQ(again.view(), "text");
}

}  // namespace
