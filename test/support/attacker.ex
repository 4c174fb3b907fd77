defmodule EmbeddedEpmd.Attacker do
  @moduledoc """
  Those who attack from outside of the VM: servers that lie, above all a false EPMD, and programs of another user.
  They end with the test.
  """

  import EmbeddedEpmd.Vm, only: [eventually: 1, start_program: 1]

  alias EmbeddedEpmd.{Folder, Registration}

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
    if System.cmd("id", ["-u"]) == {"0\n", 0}, do: ~w(setpriv --reuid 65534 --regid 65534 --clear-groups), else: []
  end

  ## What an EPMD answers

  @doc "The reply to a look-up that finds this name, with `:port`, 4711 by default, and `:versions`, `{6, 5}`."
  def found(name, options \\ []) do
    {highest, lowest} = options[:versions] || {6, 5}

    <<?w, 0, options[:port] || 4711::16, 77, 0, highest::16, lowest::16, byte_size(name)::16, name::binary, 0::16>>
  end

  @doc "A listing of these names, with the port 4711 each."
  def listing(names),
    do: IO.iodata_to_binary([<<4369::32>> | for(name <- names, do: ["name ", name, " at port 4711\n"])])
end
