#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

/// System calls that fail from now on in all threads of this process and its descendants, as a filter of seccomp(2).
namespace support {

struct Refusal {
  long syscall;
  int error;
  int signo = 0;   // only with this as the second argument; 0: always
  int option = 0;  // only with this as the first argument; 0: always
};

inline void refuse(std::initializer_list<Refusal> refusals) {
  const auto load = [](std::size_t offset) {
    return sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset));
  };
  std::vector<sock_filter> program;
  for (const Refusal& refusal : refusals) {
    const auto number = static_cast<unsigned>(refusal.syscall);
    const auto answer = SECCOMP_RET_ERRNO | static_cast<unsigned>(refusal.error);
    program.push_back(load(offsetof(seccomp_data, nr)));
    const int argument = refusal.signo != 0 ? refusal.signo : refusal.option;
    if (argument == 0) {
      program.push_back(sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
    } else {
      program.push_back(sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3));
      program.push_back(load(refusal.signo != 0 ? offsetof(seccomp_data, args[1]) : offsetof(seccomp_data, args[0])));
      program.push_back(sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(argument), 0, 1));
    }
    program.push_back(sock_filter BPF_STMT(BPF_RET | BPF_K, answer));
  }
  program.push_back(sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) != 0) {
    std::perror("cannot install a system call filter");
    std::exit(125);
  }
}

}  // namespace support
