defmodule EmbeddedEpmd.Doctor.Linux do
  @moduledoc false
  # Sockets and processes of this network namespace, as far as /proc shows them to this user.

  alias EmbeddedEpmd.Doctor.VmArgs

  # How much is read of what a process says of itself, in bytes. A command line may have megabytes.
  @longest_arguments 256 * 1024

  @type socket :: %{inode: String.t(), user: non_neg_integer()}
  @type holder :: %{
          pid: String.t(),
          program: String.t(),
          user: non_neg_integer() | nil,
          # The sockets that it holds; empty if its descriptors cannot be seen.
          inodes: [String.t()]
        }

  @typedoc """
  A VM that was started as a node: the value of -name or -sname, its flags, the ports that it listens on, if they were
  asked for and this user sees them, whether it is stopped, the version of its runtime system, and where it writes a crash dump.
  """
  @type vm :: %{
          pid: String.t(),
          node: String.t(),
          flags: [VmArgs.flag()],
          ports: [:inet.port_number()] | :unknown,
          stopped: boolean(),
          erts: [non_neg_integer()] | nil,
          crash_dump: Path.t() | nil
        }

  # Fields: number, local, remote, state (0A is LISTEN), queues, timer, retransmissions, user, time-out, inode. Each
  # connection has a line as well, and there may be very many.
  @listening ~r/^ *\d+: \S+:(\S+) \S+ 0A \S+ \S+ \S+ +(\d+) +\d+ (\d+)/m

  @doc "The sockets that listen on a port; `:unknown` if /proc does not show them."
  @spec listening(:inet.port_number()) :: [socket()] | :unknown
  def listening(port), do: with(%{} = sockets <- listening(), do: Map.get(sockets, port, []))

  @doc "The sockets that listen, by their ports; `:unknown` if /proc does not show them."
  @spec listening() :: %{:inet.port_number() => [socket()]} | :unknown
  def listening do
    # With systemd's ProcSubset=pid there is no /proc/net, but there is /proc/self/net.
    files = for file <- ["/proc/self/net/tcp", "/proc/self/net/tcp6"], {:ok, text} <- [File.read(file)], do: text
    sockets = for text <- files, socket <- Regex.scan(@listening, text, capture: :all_but_first), do: socket(socket)
    if files == [], do: :unknown, else: Enum.group_by(sockets, &elem(&1, 0), &elem(&1, 1))
  end

  defp socket([port, user, inode]),
    do: {String.to_integer(port, 16), %{inode: inode, user: String.to_integer(user)}}

  @doc """
  The processes that hold one of these sockets of a port. Another user's descriptors cannot be seen, except that an
  epmd is recognised by the user of its socket and by its arguments.
  """
  @spec holders([socket()], :inet.port_number()) :: [holder()]
  def holders([], _port), do: []
  def holders(sockets, port), do: Enum.flat_map(processes(), &holder(&1, sockets, port))

  defp holder(pid, sockets, port) do
    process = %{pid: pid, program: program(pid), user: user(pid)}

    case links(pid) do
      {:ok, links} ->
        inodes = for %{inode: inode} <- sockets, "socket:[#{inode}]" in links, do: inode
        if inodes == [], do: [], else: [Map.put(process, :inodes, inodes)]

      {:error, _} ->
        user? = Enum.any?(sockets, &(&1.user == process.user))
        epmd? = process.program == "epmd" and user? and epmd_port(pid) == Integer.to_string(port) and here?(pid)
        if epmd?, do: [Map.put(process, :inodes, [])], else: []
    end
  end

  # What the descriptors of a process are.
  defp links(pid) do
    with {:ok, descriptors} <- File.ls("/proc/#{pid}/fd") do
      {:ok, for(descriptor <- descriptors, {:ok, link} <- [File.read_link("/proc/#{pid}/fd/#{descriptor}")], do: link)}
    end
  end

  # Another user's environment, and so ERL_EPMD_PORT, cannot be seen either.
  defp epmd_port(pid) do
    case Enum.drop_while(arguments(pid), &(&1 != "-port")) do
      ["-port", port | _] -> port
      _ -> "4369"
    end
  end

  @doc "The VM that was started as a node of this name, the value of -name or -sname, in this network namespace."
  @spec node_process(String.t()) :: vm() | nil
  def node_process(name), do: Enum.find(vms(), &(&1.node == name))

  @doc "The VMs that were started as nodes, in this network namespace, but this one."
  @spec vms() :: [vm()]
  def vms do
    for pid <- processes(),
        pid != System.pid(),
        program(pid) =~ ~r/^beam/,
        flags = VmArgs.of_words(arguments(pid)),
        node = VmArgs.value(flags, "-name") || VmArgs.value(flags, "-sname"),
        # It gets a name from the node to which it connects.
        node != "undefined",
        here?(pid),
        do: vm(pid, node, flags)
  end

  defp vm(pid, node, flags) do
    %{pid: pid, node: node, flags: flags, ports: :unknown}
    |> Map.merge(%{stopped: stopped?(pid), erts: erts(pid), crash_dump: crash_dump(pid)})
  end

  @doc "The same VMs with the ports that they listen on. It takes longer, since the kernel walks its table of sockets."
  @spec with_ports([vm()]) :: [vm()]
  def with_ports([]), do: []

  def with_ports(vms) do
    sockets = with(:unknown <- listening(), do: %{})

    for vm <- vms do
      case links(vm.pid) do
        {:ok, links} ->
          holds? = fn {_port, sockets} -> Enum.any?(sockets, &("socket:[#{&1.inode}]" in links)) end
          %{vm | ports: sockets |> Enum.filter(holds?) |> Enum.map(&elem(&1, 0))}

        {:error, _} ->
          vm
      end
    end
  end

  # The state follows the name of the program, which is in brackets and may hold any character.
  defp stopped?(pid) do
    with {:ok, line} <- File.read("/proc/#{pid}/stat"),
         [state | _] <- line |> String.split(") ") |> List.last() |> String.split(),
         do: state in ["T", "t"],
         else: (_ -> false)
  end

  # Its folder has the version in its name: erts-13.1.5/bin/beam.smp.
  defp erts(pid) do
    with {:ok, program} <- File.read_link("/proc/#{pid}/exe"),
         [version] <- Regex.run(~r"/erts-([\d.]+)/", program, capture: :all_but_first),
         do: version |> String.split(".", trim: true) |> Enum.map(&String.to_integer/1),
         else: (_ -> nil)
  end

  defp crash_dump(pid) do
    with {:ok, folder} <- File.read_link("/proc/#{pid}/cwd"),
         {:ok, environment} <- File.read("/proc/#{pid}/environ") do
      variable = environment |> String.split("\0") |> Enum.find_value(&file(String.split(&1, "=", parts: 2)))
      Path.expand(variable || "erl_crash.dump", folder)
    else
      _ -> nil
    end
  end

  defp file(["ERL_CRASH_DUMP", file]) when file != "", do: file
  defp file(_variable), do: nil

  # Whether a process is in our network namespace. The link of another user's process cannot be read. But anybody may
  # read the files under its `net`, which have the same inodes as ours in the same namespace.
  defp here?(pid) do
    with {:ok, own} <- File.read_link("/proc/self/ns/net"),
         {:ok, other} <- File.read_link("/proc/#{pid}/ns/net") do
      own == other
    else
      _ -> inode("self") == inode(pid)
    end
  end

  defp inode(pid), do: with({:ok, %{inode: inode}} <- File.stat("/proc/#{pid}/net/tcp"), do: inode)

  defp processes do
    with {:ok, names} <- File.ls("/proc"), do: Enum.filter(names, &(&1 =~ ~r/^\d+$/)), else: (_ -> [])
  end

  defp arguments(pid) do
    with {:ok, file} <- :file.open("/proc/#{pid}/cmdline", [:read, :raw, :binary]) do
      line = :file.read(file, @longest_arguments)
      _ = :file.close(file)
      with {:ok, line} <- line, do: String.split(line, "\0"), else: (_ -> [])
    else
      _ -> []
    end
  end

  defp program(pid) do
    with {:ok, name} <- File.read("/proc/#{pid}/comm"), do: String.trim(name), else: (_ -> "?")
  end

  defp user(pid) do
    with {:ok, %{uid: user}} <- File.stat("/proc/#{pid}"), do: user, else: (_ -> nil)
  end
end
