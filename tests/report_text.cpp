// The lines that reports print for a log.
#include <array>
#include <chrono>
#include <gtest/gtest.h>
#include <signal.h>
#include <string>
#include <system_error>

#include <drover/detail/report_text.hpp>
#include <drover/os/reap.hpp>
#include <drover/pool/options.hpp>
#include <drover/pool/stats.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Duration;
using drover::ExitStatus;
using drover::PoolStats;
using drover::ReapReport;
using drover::StopReport;
using drover::detail::counted;
using drover::detail::duration_text;

TEST(ReportText, DurationHasThreeDigits) {
  struct Case {
    Duration duration;
    const char* text;
  };
  constexpr std::array<Case, 16> cases{{{0ns, "0 s"},
                                        {-1ns, "less than 0 s"},
                                        {1ns, "1 ns"},
                                        {999ns, "999 ns"},
                                        {1us, "1 us"},
                                        {1234ns, "1.23 us"},
                                        {1009ns, "1 us"},
                                        {1050ns, "1.05 us"},
                                        {12'345ns, "12.3 us"},
                                        {999'999ns, "999 us"},
                                        {45'600us, "45.6 ms"},
                                        {100'900us, "100 ms"},
                                        {2s, "2 s"},
                                        {2100ms, "2.1 s"},
                                        {1h, "3600 s"},
                                        {Duration::max(), "9223372036 s"}}};
  for (const auto& [duration, text] : cases) EXPECT_EQ(duration_text(duration), text);
}

TEST(ReportText, CountHasItsNounInTheRightNumber) {
  EXPECT_EQ(counted(0, "call"), "0 calls");
  EXPECT_EQ(counted(1, "crash", "es"), "1 crash");
  EXPECT_EQ(counted(2, "crash", "es"), "2 crashes");
}

TEST(ReportText, ReapReportIsOneLine) {
  const ExitStatus fine{ExitStatus::Kind::exited, 0, false}, killed{ExitStatus::Kind::signaled, SIGKILL, false};
  EXPECT_EQ((ReapReport{.exit = fine, .elapsed = 12ms}.to_string()), "exited with code 0 after 12 ms");
  EXPECT_EQ((ReapReport{.exit = fine, .terminated = true, .elapsed = 1s}.to_string()),
            "exited with code 0 after 1 s; SIGTERM sent");
  EXPECT_EQ(
      (ReapReport{
          .exit = killed, .terminated = true, .killed = true, .elapsed = 2500ms, .lost_lines = 1, .lost_bytes = 31}
           .to_string()),
      "killed by SIGKILL after 2.5 s; SIGTERM and SIGKILL sent; 1 line (31 bytes) lost");
  EXPECT_EQ((ReapReport{.exit = killed, .killed = true}.to_string()), "killed by SIGKILL after 0 s; SIGKILL sent");
}

TEST(ReportText, StopReportIsOneLine) {
  const ExitStatus fine{ExitStatus::Kind::exited, 0, false};
  EXPECT_EQ((StopReport{.exit = fine, .drained = 3, .cancelled = 1, .elapsed = 12ms}.to_string()),
            "exited with code 0 after 12 ms; 3 calls drained, 1 cancelled");
  EXPECT_EQ(
      (StopReport{.rpc = std::make_error_code(std::errc::timed_out), .exit = fine, .terminated = true}.to_string()),
      "exited with code 0 after 0 s; SIGTERM sent; the stop request failed: Connection timed out");
  EXPECT_EQ((StopReport{.exit = fine, .lost_lines = 2, .lost_bytes = 1}.to_string()),
            "exited with code 0 after 0 s; 2 lines (1 byte) lost");
}

TEST(ReportText, PoolStatsAreOneLine) {
  PoolStats stats{.workers = 8, .ready = 7, .in_flight = 1, .queued = 2, .calls = 1200, .crashes = 1, .restarts = 2};
  EXPECT_EQ(stats.to_string(), "8 workers, 7 ready; 1 call in flight, 2 queued, 1200 so far; 1 crash, 2 restarts");
  for (int i = 0; i < 3; ++i) stats.queue_time.record(0ns);
  stats.queue_time.record(4ms);
  stats.run_time.record(2ms);
  EXPECT_EQ(
      stats.to_string(),
      "8 workers, 7 ready; 1 call in flight, 2 queued, 1200 so far; waited 0 s (p50), 4 ms (p99); ran 2 ms (p50), "
      "2 ms (p99); 1 crash, 2 restarts");
}

}  // namespace
