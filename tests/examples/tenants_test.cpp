#include <algorithm>

#include "program.hpp"

namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

// After a crash one request has failed, and every other one was served, while leases of the crashed worker are held.
TEST(Tenants, GetAFreshWorkerAfterACrash) {
  const Program::Result result = Program::run({DROVER_EXAMPLE});
  EXPECT_EQ(result.code, 0) << result.err;
  const std::string& out = result.out;
  EXPECT_EQ(count(out, "ann    worker started"), 2u) << out;
  EXPECT_EQ(count(out, "bob    worker started"), 1u) << out;
  EXPECT_EQ(count(out, "ann    request 1 of this worker"), 2u) << out;
  EXPECT_EQ(count(out, "ann    request 2 of this worker"), 2u) << out;
  EXPECT_EQ(count(out, "ann    request 3 of this worker"), 2u) << out;
  EXPECT_EQ(count(out, "bob    request 2 of this worker"), 1u) << out;
  EXPECT_EQ(count(out, "ann    failed: the worker was"), 1u) << out;
  EXPECT_EQ(count(out, " request "), 8u) << out;
  // The fresh one was started before the sessions let go of the old one.
  const std::size_t fresh = out.rfind("ann    worker started"), sessions_end = out.find("ann    sessions end");
  EXPECT_LT(fresh, sessions_end) << out;
  // By a signal; a sanitizer makes an exit code of it.
  const std::size_t old_one_stopped = out.find("ann    worker stopped: ");
  EXPECT_NE(old_one_stopped, std::string::npos) << out;
  EXPECT_GT(old_one_stopped, sessions_end) << out;
  EXPECT_EQ(count(out, "worker stopped: "), 3u) << out;
  EXPECT_EQ(count(out, "worker stopped: exited with code 0"), 2u) << out;
  EXPECT_EQ(count(out, "no worker is left"), 1u) << out;
}

}  // namespace
