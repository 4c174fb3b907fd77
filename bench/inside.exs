# What the module costs a VM, and what it gives it: lookups from inside, memory, wake-ups, the time to boot.
#
#   mix run --no-start bench/inside.exs [--short] [--check]        (bench/run does it)
#
# Prints a table and writes bench/results/inside.json. Every VM is an operating system process of its own, controlled
# over its standard input and output, so that it needs no EPMD to be measured.

defmodule Inside do
  @ours ~w(-start_epmd false -epmd_module Elixir.EmbeddedEpmd.Discovery)
  @stock ~w(-start_epmd false)
  @starts_epmd []

  def main(arguments) do
    short? = "--short" in arguments
    rounds = if short?, do: 1, else: 5

    figures =
      look_ups(rounds) ++ memory(rounds) ++ wake_ups(if(short?, do: 1, else: 30)) ++ boot(if(short?, do: 1, else: 15))

    IO.puts("\nInside a VM. Medians of #{rounds} rounds.")

    for {what, values, target} <- figures do
      verdict = if target, do: "   #{describe(target)}: #{verdict(values, target)}"
      IO.puts(String.pad_trailing(what, 55) <> String.pad_leading(format(median(values)), 10) <> "#{verdict}")
    end

    rows = for {what, values, _} <- figures, do: "  #{inspect(what)}: #{format(median(values))}"
    results = Path.join(__DIR__, "results")
    File.mkdir_p!(results)
    name = if short?, do: "inside-short.json", else: "inside.json"
    File.write!(Path.join(results, name), "{\n#{Enum.join(rows, ",\n")}\n}\n")

    missed? = Enum.any?(figures, fn {_, values, target} -> target && verdict(values, target) == "NOT MET" end)
    if "--check" in arguments and missed?, do: exit({:shutdown, 1})
  end

  ## A lookup of a local node from inside

  defp look_ups(rounds) do
    port = free_port()
    daemon = start_daemon(port)
    stock = start("stock", port, @stock)
    own_port = free_port()
    ours = start("ours", own_port, @ours)
    joined = start("joined", own_port, @ours)
    await(fn -> call(joined, EmbeddedEpmd, :status, []).table == :copy end)

    triples =
      for _ <- 1..rounds do
        {per_call(ours, EmbeddedEpmd.Discovery, ~c"ours", 20_000, 100),
         per_call(joined, EmbeddedEpmd.Discovery, ~c"ours", 20_000, 100),
         per_call(stock, :erl_epmd, ~c"stock", 1_000, 1)}
      end

    stop(joined)
    stop(ours)
    stop(stock)
    kill(daemon)

    [
      {"lookup in memory, µs", for({ours, _, _} <- triples, do: ours), {:at_most, 1}},
      {"  in a VM that has joined, µs", for({_, joined, _} <- triples, do: joined), {:at_most, 1}},
      {":erl_epmd.port_please/2 of the C daemon, µs", for({_, _, c} <- triples, do: c), nil},
      {"times faster", for({ours, _, c} <- triples, do: c / ours), {:at_least, 50}}
    ]
  end

  # The median time of a call in microseconds, each measurement of so many calls in a row.
  defp per_call(vm, module, name, calls, in_a_row) do
    times = call(vm, __MODULE__, :time_calls, [module, name, div(calls, in_a_row), in_a_row])
    median(times) / in_a_row / 1000
  end

  @doc false
  # Runs in the measured VM.
  def time_calls(module, name, measurements, in_a_row) do
    {:port, _, _} = module.port_please(name, {127, 0, 0, 1})

    for _ <- 1..measurements do
      before = :erlang.monotonic_time(:nanosecond)
      repeat(module, name, in_a_row)
      :erlang.monotonic_time(:nanosecond) - before
    end
  end

  defp repeat(_module, _name, 0), do: :ok

  defp repeat(module, name, times) do
    module.port_please(name, {127, 0, 0, 1})
    repeat(module, name, times - 1)
  end

  ## Memory that the module adds to an idle VM

  # Before and after in the same VM: two VMs differ by more than this, by chance. As in a release in embedded mode, the
  # modules of OTP are there.
  defp memory(rounds) do
    added =
      for _ <- 1..rounds do
        vm = start(free_port(), @ours, %{})

        for app <- [:kernel, :stdlib, :embedded_epmd] do
          call(vm, :application, :load, [app])
          {:ok, modules} = call(vm, :application, :get_key, [app, :modules])
          if app != :embedded_epmd, do: :ok = call(vm, :code, :ensure_modules_loaded, [modules])
        end

        before = resident(vm)
        :ignore = call(vm, EmbeddedEpmd.Discovery, :start_link, [])
        added = resident(vm) - before
        stop(vm)
        added
      end

    [{"memory added to an idle VM, KiB", added, {:at_most, 2048}}]
  end

  defp resident(vm) do
    for process <- call(vm, :erlang, :processes, []), do: call(vm, :erlang, :garbage_collect, [process])
    Process.sleep(300)
    [_, kib] = Regex.run(~r/^Rss:\s+(\d+) kB$/m, File.read!("/proc/#{os_pid(vm)}/smaps_rollup"))
    String.to_integer(kib)
  end

  ## Wake-ups of the serving thread while nobody asks

  defp wake_ups(seconds) do
    port = free_port()
    vm = start("ours", port, @ours)
    nodes = for number <- 1..10, do: register("node#{number}", port)
    pid = os_pid(vm)

    [task] =
      for task <- File.ls!("/proc/#{pid}/task"), File.read!("/proc/#{pid}/task/#{task}/comm") == "epmd\n", do: task

    Process.sleep(200)
    before = switches(pid, task)
    Process.sleep(seconds * 1000)
    wake_ups = switches(pid, task) - before
    Enum.each(nodes, &:gen_tcp.close/1)
    stop(vm)
    [{"wake-ups in #{seconds} s, 10 nodes registered", [wake_ups], {:at_most, 0}}]
  end

  defp switches(pid, task) do
    [_, count] = Regex.run(~r/^voluntary_ctxt_switches:\s+(\d+)$/m, File.read!("/proc/#{pid}/task/#{task}/status"))
    String.to_integer(count)
  end

  defp register(name, port) do
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    body = <<?x, 4711::16, 77, 0, 6::16, 5::16, byte_size(name)::16, name::binary, 0::16>>
    :ok = :gen_tcp.send(socket, <<byte_size(body)::16, body::binary>>)
    {:ok, <<?v, 0, _::32>>} = :gen_tcp.recv(socket, 0, 5_000)
    socket
  end

  ## From the start of the program to the registration

  defp boot(rounds) do
    folder = Path.join(System.tmp_dir!(), "embedded_epmd_bench_#{System.pid()}")
    File.mkdir_p!(folder)
    script = release(folder)
    running_port = free_port()
    running = start_daemon(running_port)

    times =
      for round <- 1..rounds do
        # Each has its turn at each place of the order.
        measure = [
          fn -> {:ours, boot_time(script, free_port(), @ours)} end,
          fn -> {:running, boot_time(script, running_port, @stock)} end,
          fn -> {:started, boot_time(script, free_port(), @starts_epmd)} end
        ]

        {last, first} = Enum.split(measure, rem(round, 3))
        Map.new(first ++ last, & &1.())
      end

    kill(running)
    File.rm_rf!(folder)
    ratios = fn to -> for time <- times, do: time.ours / time[to] end

    [
      {"boot to registration, ms", for(time <- times, do: time.ours), nil},
      {"  with a C daemon that runs, ms", for(time <- times, do: time.running), nil},
      {"  with a C daemon that has to be started, ms", for(time <- times, do: time.started), nil},
      {"  ours / C daemon that runs", ratios.(:running), {:at_most, 1}},
      {"  ours / C daemon that has to be started", ratios.(:started), {:at_most, 1}}
    ]
  end

  # Until the node's name is found in the port mapper.
  defp boot_time(script, port, flags) do
    arguments = ~w(-noinput -mode embedded -boot #{script} -name boot@127.0.0.1) ++ flags
    began = System.monotonic_time(:microsecond)

    vm =
      Port.open({:spawn_executable, System.find_executable("erl")}, [
        :binary,
        :stderr_to_stdout,
        args: arguments ++ ~w(-kernel logger_level error),
        env: environment(port)
      ])

    {:os_pid, pid} = Port.info(vm, :os_pid)
    await(fn -> match?({:port, _, _}, EmbeddedEpmd.Boot.Client.port("boot", {127, 0, 0, 1}, port, 1_000)) end)
    took = (System.monotonic_time(:microsecond) - began) / 1000
    kill(pid)
    # It is a daemon, child of nobody, and known by its port alone. It ends when it has seen its node go.
    if flags == @starts_epmd do
      await(fn -> match?({_, 0}, System.cmd("epmd", ["-port", "#{port}", "-kill"], stderr_to_stdout: true)) end)
    end

    await(fn -> not match?({:port, _, _}, EmbeddedEpmd.Boot.Client.port("boot", {127, 0, 0, 1}, port, 1_000)) end)
    took
  end

  # The boot script of a minimal release, which loads all of its modules, as every release does.
  defp release(folder) do
    applications = for app <- Enum.uniq(with_dependencies(:embedded_epmd)), do: {app, Application.spec(app, :vsn)}

    release = {:release, {~c"bench", ~c"1"}, {:erts, :erlang.system_info(:version)}, applications}
    File.write!(Path.join(folder, "bench.rel"), :io_lib.format("~p.~n", [release]))
    file = folder |> Path.join("bench") |> String.to_charlist()
    # Newer versions of Mix leave the paths of OTP's other applications out.
    [sasl] = Path.wildcard("#{:code.root_dir()}/lib/sasl-*/ebin")
    true = Code.append_path(sasl)
    {:ok, _, _} = :systools.make_script(file, [:local, :silent, path: Enum.map(applications, &ebin/1)])
    file
  end

  defp with_dependencies(app) do
    Application.load(app)
    [app | Enum.flat_map(Application.spec(app, :applications), &with_dependencies/1)]
  end

  defp ebin({app, _version}), do: app |> Application.app_dir("ebin") |> String.to_charlist()

  ## VMs and daemons

  defp start(name, port, flags) when is_binary(name) do
    start(port, flags, %{name: String.to_charlist(name), host: ~c"127.0.0.1", longnames: true})
  end

  defp start(port, flags, node) do
    paths = for app <- [:embedded_epmd, :elixir, :logger], do: ["-pa", Application.app_dir(app, "ebin")]
    flags = flags ++ List.flatten(paths) ++ ~w(-setcookie bench -kernel inet_dist_use_interface {127,0,0,1})

    {:ok, vm, _} =
      :peer.start_link(
        Map.merge(node, %{
          connection: :standard_io,
          args: Enum.map(flags, &String.to_charlist/1),
          env: environment(port),
          wait_boot: 30_000,
          shutdown: :close
        })
      )

    {:module, _} = call(vm, :code, :load_binary, [__MODULE__, ~c"inside", :persistent_term.get(__MODULE__)])
    vm
  end

  defp environment(port), do: [{~c"ERL_EPMD_PORT", ~c"#{port}"}, {~c"ERL_EPMD_ADDRESS", ~c"127.0.0.1"}]

  defp call(vm, module, function, arguments), do: :peer.call(vm, module, function, arguments, 60_000)

  defp os_pid(vm), do: call(vm, :os, :getpid, [])

  defp stop(vm) do
    pid = os_pid(vm)
    :peer.stop(vm)
    await(fn -> not File.exists?("/proc/#{pid}") end)
  end

  # In the foreground of a port of ours, which ends with this VM.
  defp start_daemon(port) do
    command = "epmd -port #{port} -address 127.0.0.1 & echo $!; read _; kill $! 2>/dev/null"
    daemon = Port.open({:spawn_executable, System.find_executable("sh")}, [:binary, args: ["-c", command]])

    pid =
      receive do
        {^daemon, {:data, pid}} -> String.to_integer(String.trim(pid))
      end

    await(fn -> EmbeddedEpmd.Boot.Client.port("nobody", {127, 0, 0, 1}, port, 1_000) == :noport end)
    pid
  end

  defp kill(pid), do: System.cmd("kill", ["-9", "#{pid}"], stderr_to_stdout: true)

  defp free_port do
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1}, reuseaddr: true)
    {:ok, port} = :inet.port(socket)
    :gen_tcp.close(socket)
    port
  end

  defp await(condition, patience \\ 30_000) do
    cond do
      condition.() ->
        :ok

      patience <= 0 ->
        raise "a condition did not come to hold"

      true ->
        Process.sleep(1)
        await(condition, patience - 1)
    end
  end

  ## Text

  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))

  # A miss that some round does not confirm is noise.
  defp verdict(values, target) do
    cond do
      met?(median(values), target) -> "met"
      Enum.any?(values, &met?(&1, target)) -> "met in some rounds"
      true -> "NOT MET"
    end
  end

  defp met?(value, {:at_most, limit}), do: value <= limit
  defp met?(value, {:at_least, limit}), do: value >= limit

  defp describe({:at_most, limit}), do: "at most #{limit}"
  defp describe({:at_least, limit}), do: "at least #{limit}"

  defp format(value) when is_float(value), do: :erlang.float_to_binary(value, decimals: 2)
  defp format(value), do: "#{value}"
end
|> then(fn {:module, module, binary, _} ->
  :persistent_term.put(module, binary)
  module.main(System.argv())
end)
