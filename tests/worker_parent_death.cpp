// What a worker does when its parent dies.
#include <atomic>
#include <functional>
#include <sched.h>
#include <sys/mman.h>
#include <thread>

#include "support/raw_parent.hpp"

namespace {

using namespace raw;

/// True if the process has exited, whichever process its parent is.
bool gone(pid_t pid) {
  if (::kill(pid, 0) != 0) return true;
  const std::string path = "/proc/" + std::to_string(pid) + "/stat";
  char text[512] = {};
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (::read(file.get(), text, sizeof text - 1) <= 0) return true;
  const char* const behind_name = std::strrchr(text, ')');
  return behind_name != nullptr && behind_name[2] == 'Z';
}

bool gone_within(pid_t pid, Clock::duration bound) {
  const UniqueFd pidfd = pidfd_of(pid);
  return !pidfd || readable(pidfd.get(), std::chrono::ceil<std::chrono::milliseconds>(bound)) || gone(pid);
}

/// A process between the test and the worker that can be killed; the test adopts its orphans.
class ParentDeath : public raw::Test {
 protected:
  struct Told {
    pid_t worker, extra;
  };

  void SetUp() override {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    Test::SetUp();
  }
  void TearDown() override {
    if (middle_ > 0) kill_parent();
    Test::TearDown();
  }

  /// Runs `body` in the process in between, which creates a worker, reports its process id and then waits to be killed.
  Told in_between(std::function<pid_t(Worker&)> body, Options options = {}) {
    auto [reading, writing] = drover::detail::pipe_pair();
    middle_ = ::fork();
    if (middle_ == 0) {
      if (before_spawn_ && !before_spawn_()) ::_exit(1);
      Worker worker(options);
      if (options.args.empty()) worker.expect_hello();
      const pid_t extra = body(worker);
      const Told told{worker.pid, extra};
      if (::write(writing.get(), &told, sizeof told) < 0 || ::testing::Test::HasFailure()) ::_exit(1);
      for (;;) ::pause();
    }
    Told told{};
    EXPECT_TRUE(readable(reading.get()));
    EXPECT_EQ(::read(reading.get(), &told, sizeof told), static_cast<ssize_t>(sizeof told));
    return told;
  }

  void kill_parent() {
    ::kill(middle_, SIGKILL);
    EXPECT_EQ(::waitpid(middle_, nullptr, 0), middle_);
    middle_ = 0;
  }

  /// The exit code of a worker that the test has adopted, or minus its signal.
  int adopted(pid_t worker) {
    const UniqueFd pidfd = pidfd_of(worker);
    EXPECT_TRUE(readable(pidfd.get())) << "the worker does not end";
    int status = 0;
    ::kill(worker, SIGKILL);
    EXPECT_EQ(::waitpid(worker, &status, 0), worker);
    collect();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  /// Collects the rest of the group: it has been killed, but may not have been adopted yet.
  void collect() {
    const Stopwatch watch;
    while (watch.elapsed() < patience && ::waitpid(-1, nullptr, __WALL) > 0) {
    }
  }

  pid_t middle_ = 0;
  std::function<bool()> before_spawn_;  // runs in the process in between
};

TEST_F(ParentDeath, EndsAnIdleWorkerAtOnce) {
  const Told told = in_between([](Worker&) { return 0; }, {.shutdown_grace = 60s});
  const Stopwatch watch;
  kill_parent();
  EXPECT_EQ(adopted(told.worker), 0);
  EXPECT_LT(watch.elapsed(), slack);
}

TEST_F(ParentDeath, CancelsCallsInFlight) {
  for (const char* routine : {"nap", "until_stopped", "coroutine_until_stopped"}) {
    SCOPED_TRACE(routine);
    const Told told = in_between(
        [&](Worker& worker) {
          routine == std::string("nap") ? worker.call(routine, 30000, 100) : worker.call(routine);
          EXPECT_TRUE(worker.told('b'));
          return 0;
        },
        {.shutdown_grace = 60s});
    const Stopwatch watch;
    kill_parent();
    EXPECT_EQ(adopted(told.worker), 0);
    EXPECT_LT(watch.elapsed(), slack);
  }
}

TEST_F(ParentDeath, CutsOffAnEndlessLoopAtTheGrace) {
  for (const char* routine : {"spin", "block_stop_callback", "hold_the_allocator"}) {
    const Told told = in_between(
        [&](Worker& worker) {
          worker.call(routine);
          EXPECT_TRUE(worker.told('b'));
          return 0;
        },
        {.shutdown_grace = 800ms});
    const Stopwatch watch;
    kill_parent();
    EXPECT_EQ(adopted(told.worker), 1);
    EXPECT_GE(watch.elapsed(), 800ms);
    EXPECT_LT(watch.elapsed(), 800ms + slack);
  }
}

TEST_F(ParentDeath, ShortensADrain) {
  const Told told = in_between(
      [](Worker& worker) {
        worker.call("nap", 30000, 0);
        EXPECT_TRUE(worker.told('b'));
        worker.stop(std::nullopt, std::nullopt);
        worker.status();
        return 0;
      },
      {.shutdown_grace = 60s});
  const Stopwatch watch;
  kill_parent();
  EXPECT_EQ(adopted(told.worker), 0);
  EXPECT_LT(watch.elapsed(), slack);
}

TEST_F(ParentDeath, WakesASuspendedWorker) {
  const Told told = in_between(
      [](Worker& worker) {
        ::kill(worker.pid, SIGSTOP);
        return 0;
      },
      {.shutdown_grace = 60s});
  const Stopwatch watch;
  kill_parent();
  EXPECT_EQ(adopted(told.worker), 0);
  EXPECT_LT(watch.elapsed(), slack);
}

TEST_F(ParentDeath, EndsAWorkerThatIsStarting) {
  const Told told = in_between(
      [](Worker& worker) {
        EXPECT_TRUE(worker.told('b'));
        return 0;
      },
      {.args = {"slow-boot"}, .shutdown_grace = 60s});
  const Stopwatch watch;
  kill_parent();
  EXPECT_EQ(adopted(told.worker), 1);
  EXPECT_LT(watch.elapsed(), slack);
}

TEST_F(ParentDeath, IsSeenIfAForkedCopyHoldsTheSockets) {
  for (const bool with_pidfd : {true, false}) {
    SCOPED_TRACE(with_pidfd ? "pidfd" : "record lock");
    const Told told = in_between(
        [](Worker& worker) {
          worker.status();
          const pid_t copy = ::fork();
          if (copy == 0)
            for (;;) ::pause();
          return copy;
        },
        {.shutdown_grace = 60s, .with_pidfd = with_pidfd, .with_lock = !with_pidfd});
    const Stopwatch watch;
    kill_parent();
    EXPECT_TRUE(gone_within(told.worker, slack));
    EXPECT_FALSE(gone(told.extra));
    ::kill(told.extra, SIGKILL);
    EXPECT_EQ(adopted(told.worker), 0);
  }
}

TEST_F(ParentDeath, IsSeenByAllWorkersThroughOneLock) {
  const Options options{.shutdown_grace = 1s, .with_pidfd = false, .with_lock = true};
  auto* const copy = static_cast<std::atomic<pid_t>*>(
      ::mmap(nullptr, sizeof(std::atomic<pid_t>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const Told told = in_between(
      [&](Worker& first) {
        first.call("spin");  // lives on until the grace is over
        EXPECT_TRUE(first.told('b'));
        static Worker second(options);
        second.expect_hello();
        second.call("spin");
        EXPECT_TRUE(second.told('b'));
        const pid_t forked = ::fork();
        if (forked == 0)
          for (;;) ::pause();
        *copy = forked;
        return second.pid;
      },
      options);
  const Stopwatch watch;
  kill_parent();
  EXPECT_TRUE(gone_within(told.worker, 1s + slack));
  EXPECT_TRUE(gone_within(told.extra, 1s + slack));
  EXPECT_LT(watch.elapsed(), 1s + slack) << "one has waited for the other to give up the lock";
  ::kill(*copy, SIGKILL);
  ::munmap(copy, sizeof(std::atomic<pid_t>));
  EXPECT_EQ(adopted(told.worker), 1);
}

TEST_F(ParentDeath, IsSeenInsideAPidNamespace) {
  const auto enter = [] {  // the next child is the first process of a new namespace
    return ::unshare(CLONE_NEWPID) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0;
  };
  if (const pid_t probe = ::fork(); probe == 0) {
    ::_exit(enter() ? 0 : 1);
  } else {
    int status = 0;
    ASSERT_EQ(::waitpid(probe, &status, 0), probe);
    if (status != 0) GTEST_SKIP() << "no namespaces for us on this machine";
  }
  before_spawn_ = enter;
  for (const bool spinning : {false, true}) {
    const Told told = in_between(
        [&](Worker& worker) {
          if (spinning) {
            worker.call("spin");
            EXPECT_TRUE(worker.told('b'));
          }
          return 0;
        },
        {.shutdown_grace = 500ms});
    kill_parent();
    EXPECT_EQ(adopted(told.worker), spinning ? 1 : 0);
  }
}

TEST_F(ParentDeath, IsNotTheExitOfTheThreadThatSpawned) {
  std::optional<Worker> worker;
  std::thread([&] {
    worker.emplace();
    worker->expect_hello();
  }).join();
  worker->call("nap", 200, 0);
  EXPECT_EQ(worker->result().as<std::string>(), "slept");
  worker->stop(0s, 5s);
  EXPECT_EQ(worker->exit_status(), 0);
}

TEST_F(ParentDeath, KillsTheProcessesThatRoutinesSpawned) {
  pid_t worker = 0;
  for (const char* end : {"return", "hard exit", "crash", "booting"}) {
    SCOPED_TRACE(end);
    const bool booting = std::string(end) == "booting";
    const Told told = in_between(
        [&](Worker& w) {
          if (booting) {
            EXPECT_TRUE(w.told('b'));
            return 0;
          }
          w.call("grandchild");
          const pid_t grandchild = w.result().as<int>();
          if (end == std::string("hard exit")) {
            w.call("spin");
            EXPECT_TRUE(w.told('b'));
          }
          if (end == std::string("crash")) {
            w.call("crash_when_stopped");
            EXPECT_TRUE(w.told('b'));
          }
          return grandchild;
        },
        {.args = booting ? std::vector<std::string>{"boot-grandchild"} : std::vector<std::string>{},
         .shutdown_grace = 300ms});
    worker = told.worker;
    kill_parent();
    EXPECT_TRUE(gone_within(worker, slack));
    if (!booting) {
      EXPECT_TRUE(gone_within(told.extra, slack));
    }
    const int status = adopted(worker);  // it also finds that no child is left
    EXPECT_EQ(status, end == std::string("return") ? 0 : end == std::string("crash") ? -SIGABRT : 1);
  }
}

TEST_F(ParentDeath, SparesAGroupThatTheWorkerDoesNotLead) {
  const Told told = in_between([](Worker&) { return 0; }, {.own_group = false});
  kill_parent();
  EXPECT_EQ(adopted(told.worker), 0);
}

TEST_F(ParentDeath, ClosedSocketsCountAsParentDeath) {
  for (const bool control : {true, false}) {
    Worker worker({.shutdown_grace = 60s});
    worker.expect_hello();
    worker.call("nap", 30000, 0);
    ASSERT_TRUE(worker.told('b'));
    ::shutdown(control ? worker.control.fd() : worker.data.fd(), SHUT_RDWR);
    EXPECT_EQ(worker.exit_status(), 0);
    EXPECT_TRUE(worker.told('c'));
  }
  collect();
}

// Only the parent's reading side is shut down: callers would wait for ever.
TEST_F(ParentDeath, UnreadableResultsEndTheWorker) {
  Worker worker({.shutdown_grace = 60s});
  worker.expect_hello();
  ::shutdown(worker.data.fd(), SHUT_RD);
  worker.call("echo", std::string("hello"));
  EXPECT_EQ(worker.exit_status(), 0);
  collect();
}

}  // namespace
