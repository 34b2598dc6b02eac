// The memory for lines runs out now and then: lost lines are counted, and the lines that arrive are complete.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <gtest/gtest.h>
#include <new>
#include <string>
#include <string_view>

#include <asio/io_context.hpp>

#include <drover/os/process.hpp>

#include "support/processes.hpp"

namespace {
std::atomic<unsigned> every{0};  // one of this many large allocations fails
std::atomic<unsigned> large{0}, failed{0};

void* allocated(std::size_t size) {
  const unsigned n = every;
  if (n != 0 && size >= 4096 && ++large % n == 0) {
    ++failed;
    throw std::bad_alloc();
  }
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t size) { return allocated(size); }
void* operator new[](std::size_t size) { return allocated(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace support;
using drover::LinesOptions;

class LinesMemory : public Processes {};

TEST_F(LinesMemory, ShortageLosesOnlyWhatTheReportCounts) {
  constexpr std::size_t total = 300000;
  std::size_t total_bytes = 0;
  for (std::size_t i = 0; i < total; ++i) total_bytes += std::string("line \n").size() + std::to_string(i).size();
  for (const auto behind : {LinesOptions::WhenBehind::drop, LinesOptions::WhenBehind::wait}) {
    for (const unsigned n : {1u, 2u, 3u, 7u}) {
      asio::io_context context;
      std::size_t got = 0, got_bytes = 0, next = 0, wrong = 0;
      Command command = child({"flood", std::to_string(total)});
      command.out = Stdio::lines(context.get_executor(),
                                 [&](std::string_view line) {
                                   if (line.starts_with("drover: ")) return;
                                   ++got;
                                   got_bytes += line.size() + 1;
                                   const std::size_t number =
                                       line.starts_with("line ") ? std::strtoul(line.data() + 5, nullptr, 10) : 0;
                                   if (number < next || line != "line " + std::to_string(number)) ++wrong;
                                   next = number + 1;
                                 },
                                 {.when_behind = behind});
      auto process = Process::spawn(command);
      failed = 0;
      every = n;
      const auto report = run(context, process.reap(30s));
      every = 0;
      EXPECT_TRUE(report.exit.success());
      EXPECT_GT(failed, 0u);
      EXPECT_EQ(wrong, 0u) << "lines that are not whole, or out of order; every " << n;
      EXPECT_EQ(got + report.lost_lines, total) << "every " << n;
      EXPECT_EQ(got_bytes + report.lost_bytes, total_bytes) << "every " << n;
    }
  }
}

}  // namespace
