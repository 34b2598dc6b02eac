#include <cstddef>
#include <gtest/gtest.h>
#include <set>
#include <string>
#include <system_error>

#include <drover/error.hpp>

namespace {

using drover::Errc;
using drover::Error;
using drover::ExitStatus;

TEST(Error, EachCodeHasItsOwnSentence) {
  const std::error_category& category = drover::make_error_code(Errc::stopping).category();
  const std::string unknown = category.message(999);
  std::set<std::string> messages;
  int codes = 0;
  for (; category.message(codes + 1) != unknown; ++codes) {
    const std::error_code code = static_cast<Errc>(codes + 1);
    EXPECT_STREQ(code.category().name(), "drover");
    EXPECT_GT(code.message().size(), 15u);
    EXPECT_EQ(code.message().back(), '.');
    messages.insert(code.message());
  }
  // The compiler warns of a code that is added and has no sentence.
  EXPECT_GE(codes, static_cast<int>(Errc::poisoned));
  EXPECT_EQ(messages.size(), static_cast<std::size_t>(codes));
}

TEST(Error, ComparesWithItsCode) {
  const Error error(Errc::stopping, "call to 'f'");
  EXPECT_EQ(error.code(), Errc::stopping);
  EXPECT_FALSE(error.exit_status());
  const std::system_error& caught = error;
  EXPECT_NE(std::string(caught.what()).find("call to 'f'"), std::string::npos);
}

TEST(Error, CarriesTheExitStatus) {
  const Error error(Errc::worker_exited, "worker 'w'", ExitStatus{ExitStatus::Kind::signaled, SIGSEGV, false});
  ASSERT_TRUE(error.exit_status());
  EXPECT_EQ(error.exit_status()->value, SIGSEGV);
  EXPECT_NE(std::string(error.what()).find("SIGSEGV"), std::string::npos);
}

TEST(Error, RemoteErrorKeepsTypeAndText) {
  const drover::RemoteError error("std::out_of_range", "too far");
  EXPECT_EQ(error.type(), "std::out_of_range");
  EXPECT_STREQ(error.what(), "too far");
}

TEST(ExitStatus, OnlyCodeZeroIsSuccess) {
  EXPECT_FALSE(ExitStatus{}.success());
  EXPECT_TRUE((ExitStatus{ExitStatus::Kind::exited, 0, false}).success());
  EXPECT_FALSE((ExitStatus{ExitStatus::Kind::exited, 1, false}).success());
  EXPECT_FALSE((ExitStatus{ExitStatus::Kind::signaled, 0, false}).success());
}

TEST(ExitStatus, DescribesItselfInWords) {
  EXPECT_EQ(ExitStatus{}.to_string(), "ended with an unknown status");
  EXPECT_EQ((ExitStatus{ExitStatus::Kind::exited, 137, false}).to_string(), "exited with code 137");
  EXPECT_EQ((ExitStatus{ExitStatus::Kind::signaled, SIGKILL, false}).to_string(), "killed by SIGKILL");
  EXPECT_EQ((ExitStatus{ExitStatus::Kind::signaled, SIGABRT, true}).to_string(), "killed by SIGABRT (core dumped)");
  EXPECT_EQ((ExitStatus{ExitStatus::Kind::signaled, 40, false}).to_string(), "killed by signal 40");
}

}  // namespace
