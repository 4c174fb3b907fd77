defmodule EmbeddedEpmd.Reflector do
  @moduledoc """
  An attacker who has no cookie: another user of this host who registers names, and answers whoever connects to them.

  He gives a node that connects the challenge that he got from the same node on a second connection, and that node's
  proof back on the second one, which thereby passes as a node with the cookie.
  """

  @user 65_534

  @script ~S"""
  use Socket qw(:all); use IO::Handle;
  my ($epmd, $victim, $prefix, $count) = @ARGV;
  $| = 1;
  sub to { socket(my $s, AF_INET, SOCK_STREAM, 0) or die "socket: $!";
           connect($s, pack_sockaddr_in($_[0], inet_aton("127.0.0.1"))) or die "connect: $!"; $s }
  sub get { my ($s, $n) = @_; my $b = "";
            while (length $b < $n) { my $r = sysread($s, $b, $n - length $b, length $b); return undef unless $r } $b }
  sub message { my $h = get($_[0], 2); defined $h ? get($_[0], unpack("n", $h)) : undef }
  sub put { syswrite($_[0], pack("n/a*", $_[1])) }
  socket(my $l, AF_INET, SOCK_STREAM, 0); bind($l, pack_sockaddr_in(0, inet_aton("127.0.0.1"))) or die "bind: $!";
  listen($l, 256); my ($port) = unpack_sockaddr_in(getsockname($l));
  my @held;
  for my $n (1 .. $count) {
    my $s = to($epmd); my $name = $count == 1 ? $prefix : "$prefix$n";
    put($s, pack("Cn CC n n n/a* n", 120, $port, 77, 0, 6, 5, $name, 0));
    my $reply = get($s, 6); die "not registered" unless defined $reply && substr($reply, 1, 1) eq "\0";
    push @held, $s;
  }
  print "registered\n";
  while (accept(my $a, $l)) {
    print "connected\n";
    my $hello = message($a) // next; my ($flags) = unpack("x a8", $hello);
    # The second connection, on which the victim asks for a proof.
    my $b = to($victim);
    put($b, "N" . $flags . pack("N n/a*", 7, "attacker\@127.0.0.1"));
    my $status = message($b) // next; my $asked = message($b) // next;
    my ($challenge) = unpack("x9 a4", $asked);
    put($a, "sok");
    put($a, "N" . $flags . $challenge . pack("N n/a*", 7, "$prefix\@127.0.0.1"));
    my $proof = message($a) // next; my ($digest) = unpack("x5 a16", $proof);
    put($b, "r" . pack("N", 1) . $digest);
    my $end = message($b);
    print defined $end && $end =~ /^a/ ? "authenticated\n" : "refused\n";
  }
  """

  @doc "Whether another user can attack here: only root can run programs as somebody else."
  def possible? do
    possible? = System.cmd("id", ["-u"]) == {"0\n", 0}
    unless possible?, do: IO.puts("NOT RUN: only root can act as another user")
    possible?
  end

  @doc "The user that the attacker is."
  def user, do: @user

  @doc """
  Registers `name`, or with a count `name1`, `name2`, ..., at the EPMD on `epmd`, against the node that listens on
  `victim`. Returns when all are registered. It ends with the test.
  """
  def attack(epmd, victim, name, count \\ 1) do
    arguments = ["-e", @script, to_string(epmd), to_string(victim), name, to_string(count)]
    wrapper = ["--reuid", "#{@user}", "--regid", "#{@user}", "--clear-groups", "perl"]

    port =
      Port.open({:spawn_executable, System.find_executable("setpriv")}, [
        :binary,
        :exit_status,
        line: 100,
        args: wrapper ++ arguments
      ])

    {:os_pid, pid} = Port.info(port, :os_pid)
    ExUnit.Callbacks.on_exit(fn -> System.cmd("kill", ["-KILL", "#{pid}"], stderr_to_stdout: true) end)
    "registered" = line(port)
    port
  end

  @doc "What happens to the attacker next: `connected`, then `authenticated` or `refused`."
  def line(port, timeout \\ 30_000) do
    receive do
      {^port, {:data, {:eol, line}}} -> line
      {^port, {:exit_status, status}} -> ExUnit.Assertions.flunk("the attacker ended with status #{status}")
    after
      timeout -> ExUnit.Assertions.flunk("nobody has connected to the attacker")
    end
  end

  @doc "Whether anything has happened to the attacker so far."
  def connected?(port) do
    receive do
      {^port, {:data, {:eol, _}}} -> true
    after
      0 -> false
    end
  end
end
