#include <csignal>

#include "program.hpp"

namespace {

using namespace std::chrono_literals;

// The first program of the README prints its result and nothing else.
TEST(Quickstart, PrintsTheSquareOfSeven) {
  const Program::Result result = Program::run({DROVER_EXAMPLE});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, "49\n");
  EXPECT_EQ(result.err, "");
}

// However many workers it has started by then, all have exited within a second.
TEST(Quickstart, LeavesNothingWhenItIsKilledAtAnyTime) {
  ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // LeakSanitizer takes longer than they have
  for (int round = 0; round < 10; ++round) {
    Program program({DROVER_EXAMPLE});
    // Between its start and its end, with as many workers as there are by then.
    const auto workers = static_cast<std::size_t>(round % 5);
    Program::eventually(200ms, [&] { return program.processes().size() > workers; });
    ::kill(program.pid(), SIGKILL);
    EXPECT_TRUE(Program::eventually(1s, [&] { return program.processes().empty(); }));
    program.wait();
  }
}

}  // namespace
