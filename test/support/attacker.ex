defmodule Support.Attacker do
  @moduledoc """
  Those who attack from outside of the VM: servers that lie, above all a false EPMD, and programs of another user.
  They end with the test.
  """

  import Support.Vm, only: [eventually: 1, start_program: 1]

  alias Support.{Folder, Registration}

  ## Servers that lie

  @doc """
  Listens, answers the first bytes of each connection with `chunks`, one send each, and closes it; returns the port.

  `chunks` may have no end, or be a function of those first bytes. At the chunk `:stay` it waits until the other side
  closes. Options are `:ip`, `:port`, and `:sent`, a reference of `:counters` that counts the bytes.
  """
  def answers(chunks, options \\ []) do
    {ip, port} = {options[:ip] || {127, 0, 0, 1}, options[:port] || 0}
    {:ok, listener} = :gen_tcp.listen(port, [:binary, ip: ip, active: false, nodelay: true, reuseaddr: true])
    {:ok, port} = :inet.port(listener)
    chunks = if is_function(chunks, 1), do: chunks, else: fn _ -> chunks end
    spawn_link(fn -> accept(listener, chunks, options) end)
    port
  end

  defp accept(listener, chunks, options) do
    with {:ok, socket} <- :gen_tcp.accept(listener) do
      pid = spawn_link(fn -> receive do: (:go -> answer(socket, chunks, options)) end)
      :ok = :gen_tcp.controlling_process(socket, pid)
      send(pid, :go)
      accept(listener, chunks, options)
    end
  end

  defp answer(socket, chunks, options) do
    with {:ok, request} <- :gen_tcp.recv(socket, 0) do
      Enum.all?(chunks.(request), &sent?(socket, &1, options[:sent]))
    end

    :gen_tcp.close(socket)
  end

  defp sent?(socket, :stay, _counter), do: match?({:ok, _}, :gen_tcp.recv(socket, 0))

  defp sent?(socket, chunk, counter) do
    sent? = :gen_tcp.send(socket, chunk) == :ok
    if sent? and counter, do: :counters.add(counter, 1, IO.iodata_length(chunk))
    sent?
  end

  @doc "These bytes, and then others without end."
  def endless(bytes \\ "", block \\ :binary.copy(<<0>>, 65_536)),
    do: Stream.concat([bytes], Stream.repeatedly(fn -> block end))

  @doc "These bytes one by one, with a pause of so many milliseconds before each."
  def drip(bytes, pause), do: Stream.map(each_byte(bytes), fn byte -> Process.sleep(pause) && byte end)

  @doc "These bytes one by one."
  def each_byte(bytes), do: for(<<byte <- bytes>>, do: <<byte>>)

  ## Another user

  @user 65_534

  @register """
  use Socket; socket(S, PF_INET, SOCK_STREAM, 0); connect(S, pack_sockaddr_in($ARGV[0], INADDR_LOOPBACK)) or die $!;
  syswrite(S, pack("H*", $ARGV[1])); sysread(S, my $reply, 2); syswrite(STDOUT, unpack("H*", $reply)); sleep 600;
  """

  @doc """
  Registers a name as another user, until the test ends; returns when the reply has come. The option is `:node_port`,
  4711 by default. Where there is no other user to switch to, another process of this user does it.
  """
  def register_as_nobody(name, port, options \\ []) do
    reply = Path.join(Folder.new("reply"), "reply")
    request = Base.encode16(Registration.request(name, options))

    start_program(
      ["sh", "-c", "exec \"$@\" >#{reply}", "sh"] ++ as_nobody() ++ ["perl", "-e", @register, "#{port}", request]
    )

    # ALIVE2_X_RESP, and that it is granted.
    eventually(fn -> File.read(reply) == {:ok, "7600"} end)
  end

  defp as_nobody do
    if System.cmd("id", ["-u"]) == {"0\n", 0},
      do: ~w(setpriv --reuid #{@user} --regid #{@user} --clear-groups),
      else: []
  end

  # Registers names, and answers whoever connects to them. Who has no cookie gives a node that connects the challenge that
  # he got from it on a second connection, and its proof back on that one.
  @reflect ~S"""
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

  @doc "Whether there is another user here: only root can run programs as somebody else."
  def possible? do
    unless as_nobody() != [], do: IO.puts("NOT RUN: only root can act as another user")
    as_nobody() != []
  end

  @doc "The user that the attacker is."
  def user, do: @user

  @doc """
  Registers `name`, or with a count `name1`, `name2`, ..., at the EPMD on `epmd`, against the node that listens on
  `victim`. Returns when all are registered. It ends with the test.
  """
  def reflect(epmd, victim, name, count \\ 1) do
    arguments = ["-e", @reflect, to_string(epmd), to_string(victim), name, to_string(count)]
    [setpriv | wrapper] = as_nobody()
    options = [:binary, :exit_status, line: 100, args: wrapper ++ ["perl" | arguments]]
    port = Port.open({:spawn_executable, System.find_executable(setpriv)}, options)

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

  ## What an EPMD answers

  @doc "The reply to a lookup that finds this name, with `:port`, 4711 by default, and `:versions`, `{6, 5}`."
  def found(name, options \\ []) do
    {highest, lowest} = options[:versions] || {6, 5}

    <<?w, 0, options[:port] || 4711::16, 77, 0, highest::16, lowest::16, byte_size(name)::16, name::binary, 0::16>>
  end

  @doc "A listing of these names, with the port 4711 each."
  def listing(names),
    do: IO.iodata_to_binary([<<4369::32>> | for(name <- names, do: ["name ", name, " at port 4711\n"])])
end
