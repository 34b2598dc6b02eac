#include <cerrno>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/types.h>

#include <drover/os/detail/child_syscalls.hpp>
#include <drover/os/detail/group.hpp>

namespace {

using drover::detail::ChildSyscalls;

// Signal 0 is checked and not sent, see kill(2). These ids name this program's group and every process of the user.
TEST(ChildSyscalls, WithoutAProcessSignalNobody) {
  for (const pid_t pid : {0, 1, -1}) {
    ChildSyscalls handle;
    handle.adopt(pid);
    EXPECT_EQ(handle.send_group(0), ESRCH) << pid;
    EXPECT_EQ(handle.send(0), ESRCH) << pid;
  }
}

TEST(ChildSyscalls, WithoutAProcessSeeNoExit) {
  ChildSyscalls handle;
  EXPECT_FALSE(handle.open());
  EXPECT_EQ(handle.poll_exit().seen, ChildSyscalls::ExitPoll::Seen::running);
  EXPECT_FALSE(handle.stopped());
}

TEST(Group, WithoutALeaderDoesNotExist) {
  EXPECT_FALSE(drover::detail::group_exists(0));
  EXPECT_FALSE(drover::detail::group_exists(1));
}

}  // namespace
