#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <poll.h>
#include <span>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <drover/os/credentials.hpp>
#include <drover/os/detail/child_process.hpp>
#include <drover/os/detail/descriptor_rights.hpp>
#include <drover/os/detail/process_source.hpp>
#include <drover/os/detail/spawn.hpp>
#include <drover/os/fd.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/fork_request.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The parent's end of a fork server, see wire/fork_request.hpp. If an answer is late or wrong, the server is killed,
/// and with it the copies that it may have made for nothing.
class ForkServer final : public ProcessSource {
 public:
  /// How long a start waits for the answer, on the thread that starts the worker.
  static constexpr std::chrono::milliseconds patience{500};

  ForkServer(UniqueFd requests, std::shared_ptr<ChildProcess> server)
      : requests_(std::move(requests)), server_(std::move(server)) {}
  ForkServer(const ForkServer&) = delete;
  ForkServer& operator=(const ForkServer&) = delete;
  ~ForkServer() override {
    if (!requests_.ours()) return;
    std::array<std::byte, 64> unasked;  // with descriptors perhaps, which must not be closed on this thread
    ::shutdown(requests_.get(), SHUT_RDWR);
    while (receive_message(requests_.get(), unasked, MSG_DONTWAIT).bytes > 0) {
    }
  }

  std::optional<pid_t> start(SpawnRequest& request) noexcept override {
    const std::lock_guard one_at_a_time(mutex_);  // so that each answer belongs to one request
    if (broken()) return std::nullopt;
    if (!requests_.ours()) return give_up("the program has closed the socket to it");
    try {
      const auto made = exchange(request);
      if (made) refuses_ = false;
      return made;
    } catch (const std::system_error& error) {
      return refuse(error.code().value());
    } catch (const std::bad_alloc&) {
      return refuse(ENOMEM);
    }
  }

  /// Why it has been given up. Null: it has not.
  const char* fault() const noexcept { return fault_.load(); }
  /// It was given up because of its answers.
  bool hung() const noexcept { return fault() != nullptr && fault() != ended; }
  /// Why a worker could not be made, although others may be. Once for a row of such failures; empty: there is none.
  std::string take_refusal() {
    const int error = refusal_.exchange(0);
    if (error == 0) return {};
    return "a copy could not be made, so the worker was executed: " + std::generic_category().message(error);
  }

  /// It makes no workers any more.
  bool broken() const noexcept { return fault() != nullptr || !server_->running(); }

 private:
  std::optional<pid_t> exchange(SpawnRequest& request) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return refuse(errno);
    UniqueFd ours(ends[0]), of_worker(ends[1]);
    ours = above_stdio(std::move(ours));
    enable_credentials(ours.get());
    refuse_descriptors(ours.get());
    const UniqueFd folder(
        ::open(request.folder().empty() ? "." : request.folder().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!folder) return refuse(errno);
    const UniqueFd environment = file_of(request.environment());
    if (!environment) return refuse(errno);
    ForkDescriptors descriptors;
    for (std::size_t at = 0; at < placed_descriptors; ++at) descriptors[at] = request.source_of(static_cast<int>(at));
    descriptors[ForkDescriptor::folder] = folder.get();
    descriptors[ForkDescriptor::environment] = environment.get();
    descriptors[ForkDescriptor::handshake] = of_worker.get();
    const int error = send_fork_request(requests_.get(), descriptors);
    if (error == EPIPE || error == ECONNRESET) return std::nullopt;  // it has exited; the reaper knows soon
    if (error == EAGAIN) return give_up("it does not read its requests");
    if (error != 0) return refuse(error);
    of_worker.reset();
    return take_worker(ours.get());
  }

  std::optional<pid_t> take_worker(int handshake) noexcept {
    ForkReply reply;
    std::optional<pid_t> sender;
    try {
      if (!await(handshake)) return give_up("it did not answer within 500 ms");
      const ReceivedFrom received = receive_with_credentials(handshake, std::as_writable_bytes(std::span(&reply, 1)));
      if (received.bytes == 0) return give_up(ended);
      if (received.bytes != sizeof reply) return give_up(wrong_answer);
      sender = received.sender;
    } catch (const std::system_error&) {
      return give_up(ended);
    }
    if (reply.error > 0 && sender == server_->pid()) return refuse(reply.error);  // out of processes or memory
    if (reply.error != 0 || !sender || !is_new_copy(*sender) || ::setpgid(*sender, *sender) != 0)
      return give_up(wrong_answer);
    const char go = 1;
    (void)!::send(handshake, &go, sizeof go, MSG_NOSIGNAL | MSG_DONTWAIT);  // if it has exited, that is reported
    return sender;
  }

  /// The kernel names the sender. It is a child of this program only if the server has made it.
  bool is_new_copy(pid_t pid) const noexcept {
    siginfo_t info{};
    return pid != server_->pid() && ::getpgid(pid) == server_->pid() &&
           ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0;
  }

  static bool await(int handshake) noexcept {
    const auto until = Clock::now() + patience;
    for (;;) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
      pollfd readable{handshake, POLLIN, 0};
      const int ready = ::poll(&readable, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
      if (ready > 0) return true;
      if (ready == 0 || errno != EINTR) return false;
    }
  }

  static UniqueFd file_of(char* const* variables) {
    std::string text;
    for (; variables != nullptr && *variables != nullptr; ++variables) (text += *variables) += '\0';
    UniqueFd file(::memfd_create("drover environment", MFD_CLOEXEC));
    if (!file) return file;
    for (std::string_view rest = text; !rest.empty();) {
      const ssize_t written = ::write(file.get(), rest.data(), rest.size());
      if (written < 0 && errno == EINTR) continue;
      if (written == 0) errno = ENOSPC;
      if (written <= 0) return UniqueFd();
      rest.remove_prefix(static_cast<std::size_t>(written));
    }
    return file;
  }

  static constexpr const char* wrong_answer = "it did not answer as it should";
  static constexpr const char* ended = "it or its copy ended while it made a worker";

  std::nullopt_t give_up(const char* fault) noexcept {
    if (fault_.exchange(fault) == nullptr)
      server_->reap({.patience = Duration::zero(), .term_grace = Duration::zero()});
    return std::nullopt;
  }
  std::nullopt_t refuse(int error) noexcept {
    if (!std::exchange(refuses_, true)) refusal_ = error;
    return std::nullopt;
  }

  const KeptFd requests_;
  const std::shared_ptr<ChildProcess> server_;
  std::atomic<const char*> fault_{nullptr};
  std::atomic<int> refusal_{0};  // an errno, until it is taken
  std::mutex mutex_;
  bool refuses_ = false;  // the last worker could not be made
};

}}}  // namespace drover::v1::detail
