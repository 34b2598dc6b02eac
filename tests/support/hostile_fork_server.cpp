// A fork server that greets as it should and then answers requests in the way that its argument names. If it is started
// as a worker, it is a good one.
#include <cstdlib>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

#include <drover/wire/detail/process_role.hpp>
#include <drover/worker/detail/fork_server.hpp>
#include <drover/worker/serve.hpp>

#include "support/worker_routines.hpp"

namespace {

using namespace drover::detail;
using support::leave;

void reply(int handshake, int error) {
  const ForkReply reply{.error = error};
  if (::send(handshake, &reply, sizeof reply, MSG_NOSIGNAL) < 0) leave(3);
}

[[noreturn]] void misbehave(const WorkerEnvironment& environment, const std::string& how) {
  if (!send_hello(environment.control.fd, {})) leave(0);
  const SelfCopy copy;
  for (;;) {
    pollfd request{environment.forks.fd, POLLIN, 0};
    ::poll(&request, 1, -1);
    ForkDescriptors received;
    if (!receive_fork_request(environment.forks.fd, received)) leave(0);
    const int handshake = received[ForkDescriptor::handshake];
    if (how == "exits") leave(9);
    if (how == "refuses") reply(handshake, EAGAIN);
    if (how == "claims to be the worker") reply(handshake, 0);
    if (how == "sends nonsense" && ::send(handshake, "x", 1, MSG_NOSIGNAL) < 0) leave(3);
    if (how == "makes a child of its own" && ::fork() == 0) {
      reply(handshake, 0);
      support::pass(600'000);
    }
    const bool copies =
        how == "makes a silent copy" || how == "makes a dead copy" || how == "makes a copy that says no";
    if (copies && copy.make() == 0) {
      if (how == "makes a dead copy") leave(0);
      if (how == "makes a copy that says no") reply(handshake, EPERM);
      support::pass(600'000);
    }
    if (how == "is silent") support::pass(600'000);
    for (const int fd : received) ::close(fd);
  }
}

}  // namespace

int main(int, char** argv) {
  const auto start = start_role_of_this_process();
  if (start.environment && start.environment->forks.fd >= 0) misbehave(*start.environment, argv[1]);
  if (!drover::in_worker()) return 3;
  const drover::Routines all = support::worker_routines();
  return drover::serve(all);
}
