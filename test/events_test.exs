defmodule EmbeddedEpmd.EventsTest do
  use ExUnit.Case, async: true

  import Support.Registration, only: [alive2: 2]
  import Support.Vm

  alias EmbeddedEpmd.Boot.Client
  alias Support.{Mailbox, Watch}

  @localhost {127, 0, 0, 1}

  setup :port_and_name

  describe "subscribe" do
    test "tells of every node of the host, from a snapshot on", %{port: port, name: name} do
      vm = serving(name, port)
      early = register("early", port)
      {subscriber, snapshot} = call(vm, Mailbox, :subscribe)
      assert %{role: :serving, nodes: [%{name: "early", port: 4711, creation: creation}, %{name: ^name}]} = snapshot
      assert is_integer(creation)

      late = register("late", port)
      assert {:ok, :refused} = try_register("late", port)
      :gen_tcp.close(early)

      assert [
               {:registered, %{name: "late", port: 4711, creation: _}},
               {:refused, %{name: "late", reason: "the name is taken"}},
               {:unregistered, %{name: "early", port: 4711}}
             ] = events(vm, subscriber, 3)

      :gen_tcp.close(late)
    end

    test "nothing is missed while nodes come and go", %{port: port, name: name} do
      vm = serving(name, port)

      churn = Task.async(fn -> for number <- 1..300, do: :gen_tcp.close(register("node#{number}", port)) end)
      {subscriber, snapshot} = call(vm, Mailbox, :subscribe)
      Task.await(churn, 30_000)
      last = register("last", port)

      # The snapshot and the events after it add up to the table.
      eventually(fn ->
        nodes = MapSet.new(snapshot.nodes, & &1.name)
        Enum.reduce(events(vm, subscriber), nodes, &apply_event/2) == MapSet.new([name, "last"])
      end)

      :gen_tcp.close(last)
    end

    test "tells of a handover in the VM that stood by", %{port: port, name: name} do
      owner_name = unique("owner")
      owner = start_ours(owner_name, port)
      vm = serving(name, port)
      stock = register("stock", port)
      eventually(fn -> match?(%{stands_by: true, table: :copy}, call(vm, EmbeddedEpmd, :status)) end)
      {subscriber, %{role: :joined, nodes: nodes}} = call(vm, Mailbox, :subscribe)
      assert [%{name: "stock", port: 4711}, %{name: ^name}, %{name: ^owner_name, port: owner_port}] = nodes
      kill(owner)

      assert [{:role, :serving}, {:unregistered, %{name: ^owner_name, port: ^owner_port}}] = events(vm, subscriber, 2)
      :gen_tcp.close(stock)
      assert {:unregistered, %{name: "stock"}} = vm |> events(subscriber, 3) |> List.last()
    end

    test "tells of a change of role in the VM that joined", %{port: port, name: name} do
      owner = start_ours(unique("owner"), port, flags: ~w(-embedded_epmd hand_over false))
      vm = serving(name, port)
      {subscriber, %{role: :joined, nodes: []}} = call(vm, Mailbox, :subscribe)
      kill(owner)

      assert [{:role, :searching}, {:role, :serving}, {:registered, %{name: ^name}}] = events(vm, subscriber, 3)
    end

    test "a mailbox that is full is told how much was left out", %{port: port, name: name} do
      vm = serving(name, port)
      {subscriber, _} = call(vm, Mailbox, :subscribe)
      for number <- 1..800, do: :gen_tcp.close(register("node#{number}", port))
      # It never reads its mailbox, so only the first 1000 events arrive.
      eventually(fn -> length(events(vm, subscriber)) == 1_000 end)
      assert Enum.all?(events(vm, subscriber), &(elem(&1, 0) in [:registered, :unregistered]))

      # A subscriber that reads later is told how many were left out.
      reader = call(vm, Mailbox, :start_reader)
      for number <- 1..800, do: :gen_tcp.close(register("node#{number}", port))

      waiting = fn -> call(vm, :erlang, :process_info, [reader, :message_queue_len]) end
      eventually(fn -> waiting.() == {:message_queue_len, 1_000} end)

      eventually(fn -> stock_names(port) == [] or length(stock_names(port)) == 1 end)
      send_read(vm, reader)
      eventually(fn -> match?({read, left_out} when read + left_out == 1_600, call(vm, Mailbox, :result, [reader])) end)
      assert {1_000, 600} = call(vm, Mailbox, :result, [reader])
    end

    test "one that ends is forgotten, and the supervised process's end ends all", %{port: port, name: name} do
      vm = serving(name, port)
      {subscriber, _} = call(vm, Mailbox, :subscribe)
      server = call(vm, :erlang, :whereis, [EmbeddedEpmd.Server])
      monitors = fn -> call(vm, :erlang, :process_info, [server, :monitors]) |> elem(1) end
      assert {:process, subscriber} in monitors.()
      call(vm, :erlang, :exit, [subscriber, :kill])
      eventually(fn -> {:process, subscriber} not in monitors.() end)

      call(vm, :erlang, :exit, [server, :kill])
      eventually(fn -> call(vm, :erlang, :whereis, [EmbeddedEpmd.Server]) not in [server, :undefined] end)
      {again, %{role: :serving}} = call(vm, Mailbox, :subscribe)
      :gen_tcp.close(register("node", port))
      assert [{:registered, _}, {:unregistered, _}] = events(vm, again, 2)
    end

    test "without the supervised process there is nothing to subscribe to", %{port: port, name: name} do
      vm = start_ours(name, port)
      assert call(vm, EmbeddedEpmd, :subscribe) == {:error, :stopped}
      assert call(vm, EmbeddedEpmd, :unsubscribe) == :ok
    end
  end

  test "telemetry hears the same, where it is loaded", %{port: port, name: name} do
    telemetry =
      quote do
        def execute(event, measurements, metadata), do: send(:telemetry_events, {event, measurements, metadata})
      end

    {:module, :telemetry, binary, _} = Module.create(:telemetry, telemetry, Macro.Env.location(__ENV__))
    :code.purge(:telemetry)
    :code.delete(:telemetry)

    vm = start_ours(name, port)
    {:module, :telemetry} = call(vm, :code, :load_binary, [:telemetry, ~c"telemetry", binary])
    mailbox = call(vm, Mailbox, :start, [:telemetry_events])
    quiet(vm)
    supervise(vm)
    node = register("node", port)
    assert {:ok, :refused} = try_register("node", port)
    :gen_tcp.close(node)

    assert [
             {[:embedded_epmd, :node, :registered], %{count: 1}, %{name: "node", port: 4711, creation: _}},
             {[:embedded_epmd, :node, :refused], %{count: 1}, %{name: "node", reason: "the name is taken"}},
             {[:embedded_epmd, :node, :unregistered], %{count: 1}, %{name: "node", port: 4711}}
           ] =
             eventually(fn ->
               messages = call(vm, Mailbox, :messages, [mailbox])
               length(messages) == 3 and messages
             end)
  end

  describe "logs" do
    test "what happened before anybody supervised is told first", %{port: port, name: name} do
      {_vm, logged} = logging(name, port)
      assert [{:notice, "serving the port", report} | _] = eventually(fn -> logged.() != [] and logged.() end)
      assert report.port == "#{port}"
      assert report.addresses == "[127.0.0.1]"
    end

    test "the level decides what enters the VM, and can be changed", %{port: port, name: name} do
      {vm, logged} = logging(name, port, log_level: :debug)
      found(name, port)
      eventually(fn -> Enum.any?(logged.(), &match?({:debug, "lookup: found", %{peer: _}}, &1)) end)
      :gen_tcp.close(register("node", port))
      eventually(fn -> Enum.any?(logged.(), &match?({:info, "registered", %{name: "node", port: "4711"}}, &1)) end)
      eventually(fn -> Enum.any?(logged.(), &match?({:info, "unregistered", %{name: "node"}}, &1)) end)

      {:ok, server} = call(vm, EmbeddedEpmd.Boot.Lifecycle, :server)
      config = call(vm, EmbeddedEpmd.Boot.Config, :load, [[log_level: :warning]])
      call(vm, EmbeddedEpmd.Native, :configure, [server, config])
      # Entries of before have arrived once the refusal has.
      before = length(logged.())
      found(name, port)
      assert {:ok, :refused} = try_register(name, port)

      later =
        eventually(fn ->
          later = Enum.drop(Enum.reverse(logged.()), before)
          later != [] and later
        end)

      assert Enum.all?(later, &match?({:warning, "registration refused", %{name: ^name, reason: _}}, &1))
    end

    test "a standby is one line in its owner's log, with its node's name", %{port: port, name: name} do
      {_vm, logged} = logging(name, port, log_level: :info)
      names = for _ <- 1..2, do: unique("standby")
      vms = start_together(names, port)
      for vm <- vms, do: eventually(fn -> call(vm, EmbeddedEpmd, :status).stands_by end)

      told = fn -> Enum.sort(for {_, text, %{standby: standby}} <- logged.(), do: {text, standby}) end
      eventually(fn -> length(told.()) >= length(vms) end)

      assert told.() ==
               for(
                 {name, vm} <- Enum.zip(names, vms),
                 do: {"a standby has a copy of everything", "#{name}, process #{pid(vm)}"}
               )
               |> Enum.sort()
    end

    test "a flood of one kind is cut, and what was left out is counted", %{port: port, name: name} do
      {_vm, logged} = logging(name, port)
      {microseconds, _} = :timer.tc(fn -> for _ <- 1..500, do: invalid_registration(port) end)

      counted = fn ->
        for {:warning, "registration refused" <> _, report} <- logged.(), reduce: {0, 0} do
          {entries, left_out} -> {entries + 1, left_out + String.to_integer(report[:left_out] || "0")}
        end
      end

      # An entry stands for one refusal plus its `left_out`; a summary stands for its `left_out` only.
      eventually(fn ->
        {entries, left_out} = counted.()
        summaries = Enum.count(logged.(), fn {_, text, _} -> text =~ "more of these" end)
        entries - summaries + left_out == 500
      end)

      {entries, _} = counted.()
      # Ten in a second, and a summary.
      assert entries <= 11 * (div(microseconds, 1_000_000) + 2)
    end

    test "a logger that hangs holds up nobody", %{port: port, name: name} do
      vm = start_ours(name, port)
      :ok = call(vm, :logger, :add_handler, [:hangs, Mailbox, %{}])
      supervise(vm)
      for _ <- 1..500, do: invalid_registration(port)
      found(name, port)
      assert %{role: :serving} = call(vm, EmbeddedEpmd, :status)
      server = call(vm, :erlang, :whereis, [EmbeddedEpmd.Server])
      assert {:message_queue_len, length} = call(vm, :erlang, :process_info, [server, :message_queue_len])
      # Far fewer messages than the 500 refusals.
      assert length < 10
      assert call(vm, EmbeddedEpmd, :stats) |> elem(1) |> get_in([:requests, :alive2, :refused]) == 500
    end
  end

  test "stats counts requests by kind and outcome, and what is open", %{port: port, name: name} do
    vm = serving(name, port)
    {:ok, before} = call(vm, EmbeddedEpmd, :stats)
    nodes = for number <- 1..3, do: register("node#{number}", port)
    for _ <- 1..5, do: found(name, port)
    for _ <- 1..4, do: assert(Client.port("nobody", @localhost, port, 10_000) == :noport)
    assert {:ok, :refused} = try_register(name, port)
    assert [_, _, _, _] = stock_names(port)
    {:ok, waiting} = :gen_tcp.connect(@localhost, port, [:binary, active: false])
    :ok = :gen_tcp.send(waiting, <<0>>)

    stats =
      eventually(fn ->
        {:ok, stats} = call(vm, EmbeddedEpmd, :stats)
        stats.connections.waiting == 1 and stats
      end)

    assert stats.requests == %{
             before.requests
             | port_please: %{found: 5, not_found: 4},
               alive2: %{granted: 3, refused: 1},
               names: 1
           }

    assert %{accepted: 15, registered: 3, evicted: 0} = stats.connections
    assert stats.names == 4
    assert stats.role_changes == 1
    assert stats.uptime > 0
    assert stats.descriptors.used in 10..stats.descriptors.limit
    Enum.each([waiting | nodes], &:gen_tcp.close/1)
    assert call(start_plain(free_port()), EmbeddedEpmd, :stats) == {:error, :stopped}
  end

  ## VMs

  defp serving(name, port) do
    vm = start_ours(name, port)
    quiet(vm)
    supervise(vm)
    vm
  end

  # Removes the handlers that print: the tests have handlers of their own.
  defp quiet(vm) do
    {:ok, _} = call(vm, :application, :ensure_all_started, [:logger])
    for handler <- [:default, Logger], do: call(vm, :logger, :remove_handler, [handler])
  end

  defp logging(name, port, options \\ []) do
    vm = start_ours(name, port)
    call(vm, Watch, :start)
    :ok = call(vm, Watch, :log)
    quiet(vm)
    call(vm, :logger, :set_primary_config, [:level, :debug])
    supervise(vm, options)
    {vm, fn -> call(vm, Watch, :seen).logged end}
  end

  defp events(vm, subscriber, count) do
    eventually(fn ->
      events = events(vm, subscriber)
      length(events) >= count and events
    end)
  end

  defp events(vm, subscriber), do: for({:embedded_epmd, event} <- call(vm, Mailbox, :messages, [subscriber]), do: event)

  defp apply_event({:registered, %{name: name}}, nodes), do: MapSet.put(nodes, name)
  defp apply_event({:unregistered, %{name: name}}, nodes), do: MapSet.delete(nodes, name)

  defp send_read(vm, reader), do: call(vm, :erlang, :send, [reader, :read])

  ## Requests

  defp found(name, port), do: assert({:port, _, _} = Client.port(name, @localhost, port, 10_000))

  defp register(name, port) do
    {:ok, socket} = try_register(name, port)
    socket
  end

  defp try_register(name, port) do
    {socket, reply} = alive2(name, port)

    case reply do
      <<?v, 0, _::32>> ->
        {:ok, socket}

      <<?v, 1, _::32>> ->
        :gen_tcp.close(socket)
        {:ok, :refused}
    end
  end

  # A name with a newline in it.
  defp invalid_registration(port) do
    {socket, <<?v, 1, _::32>>} = alive2("a\nb", port)
    :gen_tcp.close(socket)
  end
end
