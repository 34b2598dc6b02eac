#include "program.hpp"

namespace {

// The example prints each step of a stop that ends with SIGKILL, in order, then the reports of the stop and the call.
TEST(Timeline, ShowsEachStepOfAnEscalation) {
  const Program::Result result = Program::run({DROVER_EXAMPLE});
  EXPECT_EQ(result.code, 0) << result.err;
  std::size_t at = 0;
  for (const char* step :
       {"spawned", "ready", "stopping", "sent SIGTERM", "sent SIGKILL", "exited: killed by SIGKILL", "reaped",
        "the stop says: The deadline has passed. terminated yes, killed yes", "the call says: worker 'mule'"}) {
    const std::size_t found = result.out.find(step, at);
    ASSERT_NE(found, std::string::npos) << step << " is missing, or too early, in\n" << result.out;
    at = found + 1;
  }
}

}  // namespace
