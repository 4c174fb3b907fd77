defmodule EmbeddedEpmd.Attacker do
  @moduledoc """
  Those who attack from outside of the VM: servers that lie, above all a false EPMD, and programs of another user.
  They end with the test.
  """

  ## Servers that lie

  @doc """
  Listens, answers the first bytes of each connection with `chunks`, one send each, and closes it; returns the port.

  `chunks` may have no end, or be a function of those first bytes. Options are `:ip` and `:port`, `stay: true` to close
  only when the other side has, and `:sent`, a reference of `:counters` that counts the bytes.
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
      all_sent? = Enum.all?(chunks.(request), &sent?(socket, &1, options[:sent]))
      if all_sent? and options[:stay], do: :gen_tcp.recv(socket, 0)
    end

    :gen_tcp.close(socket)
  end

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
