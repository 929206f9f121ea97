#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <unistd.h>
extern char **environ;
static void touch(int d, const char *n) { int f = openat(d, n, O_CREAT|O_WRONLY|O_TRUNC, 0644); if (f>=0) { write(f,"x",1); close(f);} }
static void *execer(void *a) { char *v[]={"true","from-thread",NULL}; execve("/bin/true", v, environ); return a; }
static void *opener(void *a) { for (int i=0;i<20;i++){ int f=open("/input/x",O_RDONLY); if(f>=0)close(f); usleep(10);} return a; }
static void *chdirer(void *a) { unshare(CLONE_FS); chdir("/tmp/deep"); touch(AT_FDCWD,"by-chdirer"); return a; }
static int cloned(void *a) { chdir((char*)a); touch(AT_FDCWD, "by-clone"); return 3; }
int main(void) {
  char *stack = malloc(65536);
  mkdir("/tmp/deep",0755); mkdir("/tmp/deep/er",0755);
  chdir("/tmp/deep"); touch(AT_FDCWD,"relative"); chdir("er"); touch(AT_FDCWD,"../up"); 
  int d = open("/tmp/deep", O_DIRECTORY|O_RDONLY|O_CLOEXEC); touch(d,"by-dirfd"); fchdir(d); 
  rename("relative","renamed"); renameat(d,"renamed",AT_FDCWD,"/tmp/out"); renameat2(AT_FDCWD,"/tmp/out",d,"er/back",RENAME_NOREPLACE);
  touch(AT_FDCWD,"line\nfeed"); touch(AT_FDCWD,"quo\"te"); touch(AT_FDCWD,"a>b<c"); touch(AT_FDCWD,"not\xff\xfeutf"); touch(AT_FDCWD,"back\\slash"); touch(AT_FDCWD,"a, b) = 3"); touch(AT_FDCWD,"tab\tesc\33" "7"); touch(AT_FDCWD, "\303\251t\303\251");
  { int f=open("a>b<c",O_RDWR); fchmod(f,0600); ftruncate(f,10); fchown(f,-1,-1); unlink("a>b<c"); fchmod(f,0640); close(f);} 
  { int e=open("not\xff\xfeutf",O_RDONLY); close(e);} 
  mkdir("a>b\n",0700); { int e=open("a>b\n",O_DIRECTORY); touch(e,"inner"); unlinkat(e,"inner",0); close(e); unlinkat(AT_FDCWD,"a>b\n",AT_REMOVEDIR);} 
  link("up","hard"); symlink("up","soft"); chmod("hard",0644); truncate("hard",3); unlink("hard"); mkfifo("fifo",0600); creat("made",0600);
  open("missing",O_RDONLY); open("/etc/passwd",O_WRONLY); open("/proc/1/mem",O_RDONLY); open("",O_RDONLY); open((char*)1,O_RDONLY);
  int t=open("/tmp",O_TMPFILE|O_RDWR,0600); if(t>=0){char b[64];sprintf(b,"/proc/self/fd/%d",t);linkat(AT_FDCWD,b,AT_FDCWD,"/tmp/linked",AT_SYMLINK_FOLLOW);}
  if(!fork()) _exit(7); wait(0);
  if(!vfork()) { execl("/bin/echo","echo","vforked",NULL); _exit(1);} wait(0);
  { pid_t p; char *v[]={"sh","-c","echo spawned | cat | tr a b; exit 4",NULL}; posix_spawn(&p,"/bin/sh",0,0,v,environ); waitpid(p,0,0);} 
  if(!fork()) { if(!fork()){ setsid(); usleep(20000); touch(AT_FDCWD,"/tmp/daemon"); _exit(0);} _exit(0);} wait(0);
  if(!fork()) { kill(getpid(),SIGTERM); pause(); } wait(0);
  if(!fork()) { abort(); } wait(0);
  if(!fork()) { *(volatile int*)0=1; } wait(0);
  { pid_t p=fork(); if(!p){pause();_exit(0);} usleep(3000); kill(p,SIGKILL); waitpid(p,0,0);} 
  { pid_t p=fork(); if(!p){ for(;;) pause(); } usleep(3000); kill(p,SIGSTOP); usleep(3000); kill(p,SIGCONT); kill(p,SIGINT); waitpid(p,0,0);} 
  clone(cloned, stack+65536, CLONE_FS|SIGCHLD, "/tmp"); wait(0); touch(AT_FDCWD,"shared-cwd");
  clone(cloned, stack+65536, CLONE_VM|SIGCHLD, "/tmp/deep/er"); wait(0); touch(AT_FDCWD,"own-cwd");
  { pthread_t a,b; pthread_create(&a,0,opener,0); pthread_create(&b,0,opener,0); opener(0); pthread_join(a,0); pthread_join(b,0);} 
  { pthread_t a; pthread_create(&a,0,chdirer,0); pthread_join(a,0);} 
  if(!fork()) { pthread_t a; pthread_create(&a,0,execer,0); pthread_join(a,0); pause(); } wait(0);
  if(!fork()) { execl("/nothing/here","nothing",NULL); execl("/code/acts.c","acts",NULL); { char big[3000]; memset(big,'A',2999); big[2999]=0; execl("/bin/true","tr\"ue",big,"z\n\xff",NULL);} _exit(9);} wait(0);
  { int f=open("/bin/true",O_PATH|O_CLOEXEC); if(!fork()){ char*v[]={"viafd",NULL}; syscall(SYS_execveat,f,"",v,environ,AT_EMPTY_PATH); _exit(1);} wait(0);} 
  { int m=memfd_create("in memory",MFD_CLOEXEC); int s=open("/bin/true",O_RDONLY); char b[65536]; ssize_t n; while((n=read(s,b,sizeof b))>0) write(m,b,n); if(!fork()){ char*v[]={"memfd",NULL}; fexecve(m,v,environ); _exit(1);} wait(0);} 
  { int s=socket(AF_INET,SOCK_STREAM,0); struct sockaddr_in i={AF_INET,htons(80)}; inet_aton("192.0.2.1",&i.sin_addr); connect(s,(void*)&i,sizeof i); inet_aton("127.0.0.1",&i.sin_addr); i.sin_port=0; bind(s,(void*)&i,sizeof i); listen(s,5); socklen_t l=sizeof i; getsockname(s,(void*)&i,&l);
    int c=socket(AF_INET,SOCK_STREAM,0); connect(c,(void*)&i,sizeof i); int k=accept4(s,0,0,SOCK_CLOEXEC); send(c,"hello",5,0); char b[9]; recv(k,b,9,0); 
    int six=socket(AF_INET6,SOCK_DGRAM,0); struct sockaddr_in6 j={AF_INET6,htons(53)}; inet_pton(AF_INET6,"2001:db8::1",&j.sin6_addr); sendto(six,"q",1,0,(void*)&j,sizeof j); inet_pton(AF_INET6,"fe80::1",&j.sin6_addr); j.sin6_scope_id=1; connect(six,(void*)&j,sizeof j);
    struct iovec v={"m",1}; struct msghdr h={&i,sizeof i,&v,1}; int u=socket(AF_INET,SOCK_DGRAM,0); sendmsg(u,&h,0); struct mmsghdr mm[2]={{h},{h}}; sendmmsg(u,mm,2,0);
    int x=socket(AF_UNIX,SOCK_STREAM,0); struct sockaddr_un un={AF_UNIX,"/tmp/so\"ck"}; bind(x,(void*)&un,sizeof un); connect(x,(void*)&un,sizeof un); struct sockaddr_un ab={AF_UNIX}; strcpy(ab.sun_path+1,"abstract"); connect(x,(void*)&ab,2+9); socket(AF_PACKET,SOCK_RAW,0); socket(AF_INET,SOCK_RAW,1); int nl=socket(AF_NETLINK,SOCK_RAW,0); (void)nl; int sp[2]; socketpair(AF_UNIX,SOCK_STREAM,0,sp); (void)six;}
  syscall(SYS_ptrace,0,0,0,0); unshare(CLONE_NEWUSER); syscall(SYS_io_uring_setup,1,0); mount("a","/b","c",0,0); setuid(0); syscall(SYS_bpf,0,0,0); syscall(SYS_memfd_secret,0); syscall(9999,1,2,3);
  close(d);
  { int f=open("/output/result",O_CREAT|O_WRONLY|O_EXCL,0600); dup2(f,1); write(1,"1,2\n",4); close(f);} 
  chdir("/tmp"); rename("deep/er","moved"); rmdir("moved"); chdir("moved"); unlink("by-clone"); unlink("back"); unlink("gone"); rmdir("../moved"); touch(AT_FDCWD,"in-deleted"); 
  raise(SIGUSR1); return 5; }
