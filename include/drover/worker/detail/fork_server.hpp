#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <iterator>
#include <linux/futex.h>
#include <linux/sched.h>
#include <memory>
#include <optional>
#include <poll.h>
#include <signal.h>
#include <span>
#include <stdexcept>
#include <string>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/os/credentials.hpp>
#include <drover/os/detail/child_syscalls.hpp>
#include <drover/os/detail/spawn_mark.hpp>
#include <drover/os/fd.hpp>
#include <drover/wire/body.hpp>
#include <drover/wire/fork_request.hpp>
#include <drover/wire/frame.hpp>
#include <drover/wire/protocol.hpp>
#include <drover/worker/detail/control_thread.hpp>
#include <drover/worker/detail/hello.hpp>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif

/// The process of PoolOptions::launch = Launch::fork that makes workers by copying itself.
namespace drover { inline namespace v1 { namespace detail {

/// The process can never copy itself.
class CannotFork : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Copies this process, which has one thread. fork(2) of the C library cannot make the copy a child of this process's
/// parent, so this does what that does in the copy of such a process: the kernel writes the thread's new id, and the
/// list of robust locks is registered. Functions of pthread_atfork(3) are not called.
class SelfCopy {
 public:
  /// Throws CannotFork.
  SelfCopy() {
    if (::getpid() == 1)
      throw CannotFork("it is process 1 of its pid namespace, which cannot make children of its parent");
    if (!soon_has_one_thread())
      throw CannotFork(
          "it has several threads when it calls drover::in_worker(); a copy would have one. Start threads later, or "
          "use Launch::exec");
    // Where the C library keeps the id of this thread; needs a kernel with checkpoint and restore.
    if (::prctl(PR_GET_TID_ADDRESS, &thread_id_) != 0 || thread_id_ == nullptr)
      throw CannotFork("the kernel does not tell where the id of a thread is kept");
    std::size_t size = 0;
    if (::syscall(SYS_get_robust_list, 0, &robust_locks_, &size) != 0) robust_locks_ = nullptr;
    // No size is that small: EINVAL, if the call exists and is permitted.
    if (::syscall(SYS_clone3, nullptr, std::size_t{0}) == 0 || errno != EINVAL)
      throw CannotFork(std::string("clone3(2) is not available here: ") + std::strerror(errno));
  }

  /// As fork(2), but the copy is a child of this process's parent. -1 with errno.
  pid_t make() const noexcept {
    clone_args arguments{};
    arguments.flags = CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    arguments.child_tid = reinterpret_cast<std::uintptr_t>(thread_id_);
    const auto pid = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
    if (pid == 0 && robust_locks_ != nullptr) ::syscall(SYS_set_robust_list, robust_locks_, sizeof(robust_list_head));
    return pid;
  }

 private:
  /// The kernel may still list threads that have just been joined.
  static bool soon_has_one_thread() {
    for (int looks = 0; looks < 100; ++looks, ::usleep(1000))
      if (has_one_thread()) return true;
    return false;
  }

  static bool has_one_thread() {
    const std::unique_ptr<DIR, int (*)(DIR*)> threads(::opendir("/proc/self/task"), &::closedir);
    if (!threads) throw CannotFork("/proc/self/task cannot be read, so its threads cannot be counted");
    std::size_t entries = 0;
    while (::readdir(threads.get()) != nullptr) ++entries;
    return entries == 3;  // with . and ..
  }

  int* thread_id_ = nullptr;
  void* robust_locks_ = nullptr;
};

/// Serves ForkRequests on the process's only thread. It ends with its parent, and when the parent asks for that.
class ForkServerLoop {
 public:
  explicit ForkServerLoop(const WorkerEnvironment& environment) noexcept
      : control_(environment.control.fd),
        data_(environment.data.fd),
        parent_(environment.parent.fd),
        requests_(environment.forks.fd) {}

  /// Returns in each copy, which has the descriptors and the environment of a worker then. `prepare` comes first, once.
  template <class Prepare>
  void run(Prepare prepare) {
    std::optional<SelfCopy> copy;
    try {
      for (const int fd : {control_, data_, parent_, requests_})
        if (fd >= 0) set_cloexec(fd, true);
      if (parent_ < 0) throw CannotFork("the kernel has no pidfds");
      // Processes that are started now must not take themselves for workers. Each copy gets its own variable.
      ::unsetenv(environment_name);
      clear_spawn_mark();
      end_with_parent(true);
      prepare();
      end_with_parent(false);
      std::fflush(nullptr);  // or each copy would write it
      copy.emplace();
    } catch (const CannotFork& error) {
      report_unfit(error.what());
    }
    if (!send_hello(control_, {})) leave();
    while (!serve_one(*copy)) {
    }
  }

 private:
  [[noreturn]] static void leave() noexcept { ::_exit(0); }

  /// For as long as nothing watches the parent.
  void end_with_parent(bool on) const noexcept {
    ::prctl(PR_SET_PDEATHSIG, on ? SIGKILL : 0);
    pollfd parent{parent_, POLLIN, 0};
    if (::poll(&parent, 1, 0) > 0) leave();  // it may have died before
  }

  [[noreturn]] void report_unfit(const char* why) const {
    FrameBody body;
    Encoder encoder(body.buffer());
    encoder.put(std::string(cannot_fork));
    encoder.put(std::string(why));
    send_first(control_, FrameType::start_failed, body.buffer().view());
    ::_exit(exit_start_failed);
  }

  /// True in a copy that is to be a worker.
  bool serve_one(const SelfCopy& copy) {
    pollfd watched[] = {{requests_, POLLIN, 0}, {control_, POLLIN, 0}, {parent_, POLLIN, 0}};
    if (::poll(watched, std::size(watched), -1) < 0) {
      if (errno != EINTR) ::usleep(20'000);  // ENOMEM
      return false;
    }
    if (watched[2].revents != 0) leave();
    if (watched[1].revents != 0) read_control();
    return watched[0].revents != 0 && make_worker(copy);
  }

  /// STOP ends this process, and so does anything that is not from a drover parent.
  void read_control() {
    const std::span<std::byte> room = reader_.prepare();
    const ssize_t received = ::recv(control_, room.data(), room.size(), MSG_DONTWAIT);
    if (received < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (received <= 0) leave();
    reader_.commit(static_cast<std::size_t>(received));
    while (const auto frame = reader_.next()) {
      const bool stops = frame->header.type == FrameType::stop;
      if (!stops && frame->header.type != FrameType::status) leave();
      const auto reply = stops ? ControlReply(FrameType::stop_reply, frame->header.id, StopReply{})
                               : ControlReply(FrameType::status_reply, frame->header.id, StatusReply{});
      if (!reply.send_for_certain(control_) || stops) leave();
    }
  }

  bool make_worker(const SelfCopy& copy) {
    ForkDescriptors received;
    if (!receive_fork_request(requests_, received)) leave();
    const pid_t pid = copy.make();
    if (pid == 0) {
      become(received);
      return true;
    }
    if (pid < 0) {
      const ForkReply reply{.error = errno};
      (void)!::send(received[ForkDescriptor::handshake], &reply, sizeof reply, MSG_NOSIGNAL);
    }
    for (const int fd : received) ::close(fd);
    return false;
  }

  /// In the copy: waits for its parent, and takes the place of a worker that has been spawned.
  void become(const ForkDescriptors& received) const {
    for (const int fd : {control_, data_, parent_, requests_}) ::close(fd);
    const int handshake = received[ForkDescriptor::handshake];
    const ForkReply reply;
    try {
      send_with_credentials(handshake, std::as_bytes(std::span(&reply, 1)));
    } catch (const std::system_error&) {
      leave();
    }
    await_go(handshake, received[ForkDescriptor::parent]);

    // The received ones may have the numbers at which others belong.
    ForkDescriptors high = received;
    for (int& fd : high) fd = ::fcntl(fd, F_DUPFD_CLOEXEC, static_cast<int>(ForkDescriptor::count));
    for (const int fd : received) ::close(fd);
    for (std::size_t at = 0; at < placed_descriptors; ++at)
      if (::dup2(high[at], static_cast<int>(at)) < 0) leave_broken("a descriptor cannot be moved");
    if (::fchdir(high[ForkDescriptor::folder]) != 0) leave_broken("its working directory cannot be entered");
    take_environment(high[ForkDescriptor::environment]);
    for (const int fd : high) ::close(fd);
  }

  /// A forked copy of the parent may hold the other end of the handshake, so the parent's end is watched as well.
  static void await_go(int handshake, int parent) noexcept {
    pollfd watched[] = {{handshake, POLLIN, 0}, {parent, POLLIN, 0}};
    while (::poll(watched, std::size(watched), -1) < 0)
      if (errno != EINTR) ::usleep(20'000);  // ENOMEM
    char go = 0;
    if (watched[0].revents == 0 || ::recv(handshake, &go, sizeof go, MSG_DONTWAIT) != 1) leave();
  }

  [[noreturn]] static void leave_broken(const char* why) noexcept {
    std::fprintf(stderr, "drover: a copy of the fork server cannot become a worker: %s: %s\n", why,
                 std::strerror(errno));
    std::fflush(stderr);
    ::_exit(exit_without_resources);
  }

  /// The memory is never released, as that of the environment that a process starts with.
  static void take_environment(int file) {
    struct stat status{};
    if (::fstat(file, &status) != 0) leave_broken("its environment cannot be read");
    const auto size = static_cast<std::size_t>(status.st_size);
    char* const text = new char[size + 1];
    std::size_t read = 0;
    while (read < size) {
      const ssize_t got = ::pread(file, text + read, size - read, static_cast<off_t>(read));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) leave_broken("its environment cannot be read");
      read += static_cast<std::size_t>(got);
    }
    text[size] = '\0';
    auto& variables = *new std::vector<char*>;
    for (std::size_t at = 0; at < size; at += std::strlen(text + at) + 1) variables.push_back(text + at);
    variables.push_back(nullptr);
    environ = variables.data();
  }

  const int control_, data_, parent_, requests_;
  FrameReader reader_{64};  // no larger frame arrives on this socket
};

}}}  // namespace drover::v1::detail
