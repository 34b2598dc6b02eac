// What /proc says about a process.
#include <chrono>
#include <cstddef>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <optional>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <vector>

#include <drover/os/detail/process_figures.hpp>

namespace {

using namespace std::chrono_literals;
using drover::detail::cpu_ticks_in;
using drover::detail::cpu_time;
using drover::detail::parent_of;
using drover::detail::resident_set;

std::optional<std::uint64_t> ticks_in(std::string text) { return cpu_ticks_in({text.c_str(), text.size()}); }

TEST(ProcessFigures, ResidentSetGrowsWithMemory) {
  const auto before = resident_set(::getpid());
  ASSERT_TRUE(before);
  EXPECT_GT(*before, 100'000u);
  constexpr std::size_t size = 32 << 20;
  void* const reserved = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(reserved, MAP_FAILED);
  const auto unused = resident_set(::getpid());
  ASSERT_TRUE(unused);
  EXPECT_LT(*unused, *before + size / 2);
  void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const auto after = resident_set(::getpid());
  ::munmap(memory, size);
  ::munmap(reserved, size);
  ASSERT_TRUE(after);
  EXPECT_GE(*after, *before + size / 2);
  EXPECT_LT(*after, *before + 4 * size);
}

TEST(ProcessFigures, CpuTimeIsThatOfTheProcess) {
  const auto own_time = [] {
    timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  };
  while (own_time() < 100ms) continue;
  const auto least = own_time();
  const auto time = cpu_time(::getpid());
  const auto most = own_time();
  ASSERT_TRUE(time);
  EXPECT_GE(*time, least - 30ms);  // user and system time are rounded down separately
  EXPECT_LE(*time, most + 30ms);
}

TEST(ProcessFigures, ProcessThatHasGoneHasNone) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  for (const pid_t none : {child, 0, -1}) {
    EXPECT_EQ(resident_set(none), std::nullopt) << none;
    EXPECT_EQ(cpu_time(none), std::nullopt) << none;
    EXPECT_EQ(parent_of(none), std::nullopt) << none;
  }
}

TEST(ProcessFigures, ZombieHasNoMemory) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(resident_set(child), 0u);
  EXPECT_TRUE(cpu_time(child));
  EXPECT_EQ(parent_of(child), ::getpid());
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST(ProcessFigures, CommandNameMayContainAnything) {
  int ready[2] = {-1, -1}, go[2] = {-1, -1};
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(go, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::prctl(PR_SET_NAME, ") S 1 (\n) 7 9");
    char byte = 0;
    ::close(go[1]);
    if (::write(ready[1], &byte, 1) == 1) (void)!::read(go[0], &byte, 1);
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_EQ(parent_of(child), ::getpid());
  const auto time = cpu_time(child);
  ASSERT_TRUE(time);
  EXPECT_LT(*time, 10s);
  EXPECT_GT(resident_set(child).value_or(0), 0u);
  for (const int fd : {ready[0], ready[1], go[0], go[1]}) ::close(fd);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST(ProcessFigures, TicksAreUserAndSystemTime) {
  EXPECT_EQ(ticks_in("12 (a) S 1 2 3 4 -5 6 7 8 9 10 1100 22 33 44 20 0 1 0"), 1122u);
  EXPECT_EQ(ticks_in("12 (a b) c) (d)) R 1 2 3 4 5 6 7 8 9 10 1 2"), 3u);
  for (const char* malformed : {"", "12", "12 (a", "12 (a)", "12 (a) S 1 2 3 4 5 6 7 8 9 10 11", "12 a S 1 2"})
    EXPECT_EQ(ticks_in(malformed), std::nullopt) << malformed;
}

}  // namespace
