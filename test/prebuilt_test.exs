defmodule EmbeddedEpmd.PrebuiltTest do
  use ExUnit.Case, async: true

  alias EmbeddedEpmd.Build.{Cargo, Download, Prebuilt, Target}
  alias Support.Attacker

  @repository Path.expand("..", __DIR__)
  @triple "x86_64-unknown-linux-gnu"
  @version Mix.Project.config()[:version]
  @name "libepmd_nif-v#{@version}-nif-2.15-#{@triple}.so"
  @archive @name <> ".tar.gz"

  setup do
    %{folder: Support.Folder.new("prebuilt")}
  end

  test "an archive that is not what was promised is refused with a sentence, and nothing is installed", %{
    folder: folder
  } do
    good = archive([{@name, library()}])
    <<_::binary-20, rest::binary>> = library()
    wrong_machine = binary_part(library(), 0, 18) <> <<183::little-16>> <> rest

    cases = [
      {"another sum", good, "0000", ~r/its SHA-256 is [0-9a-f]{64}, and checksum-.*exs has 0{64}/},
      {"no sum", good, :none, ~r/must have sha256: and 64 digits .* and has "md5:1"/},
      {"empty", "", :right, ~r/cannot be unpacked/},
      {"a page", "<html>Not Found</html>", :right, ~r/cannot be unpacked/},
      {"no tar", :zlib.gzip("hello"), :right, ~r/cannot be unpacked|holds no/},
      {"truncated", binary_part(good, 0, div(byte_size(good), 2)), :right,
       ~r/cannot be unpacked: it is no archive, or ends too early/},
      {"corrupted", corrupt(good), :right, ~r/cannot be unpacked/},
      {"truncated tar", :zlib.gzip(binary_part(:zlib.gunzip(good), 0, 600)), :right, ~r/cannot be unpacked/},
      {"empty tar", archive([]), :right, ~r/holds no #{@name}/},
      {"leaves its folder", archive([{"../" <> @name, library()}]), :right, ~r/holds \.\.\/libepmd_nif/},
      {"absolute", archive([{"/tmp/" <> @name, library()}]), :right, ~r/holds \/tmp\/libepmd_nif/},
      {"a file too many", archive([{@name, library()}, {"postinstall", "x"}]), :right, ~r/holds .*postinstall, and/},
      {"twice", archive([{@name, library()}, {@name, library()}]), :right,
       ~r/holds .*, .*, and .* alone belongs there/},
      {"a link", link(), :right, ~r/is a symlink, and only files belong there/},
      {"another version", archive([{String.replace(@name, @version, "0.0.9"), library()}]), :right,
       ~r/holds .*v0\.0\.9/},
      {"no library", archive([{@name, "hello"}]), :right, ~r/the library in it is no library/},
      {"cut library", archive([{@name, binary_part(library(), 0, 80)}]), :right, ~r/the library in it ends too early/},
      {"another machine", archive([{@name, wrong_machine}]), :right,
       ~r/is for aarch64, glibc, and #{@triple} is needed/},
      {"another libc", archive([{@name, library("libc.musl-x86_64.so.1")}]), :right, ~r/is for x86_64, musl, and/}
    ]

    outcomes =
      compile(folder, for({label, contents, sum, _} <- cases, do: {label, contents, sum}) ++ [{"good", good, :right}])

    for {label, _, _, expected} <- cases do
      assert {:error, [sentence], []} = outcomes[label], label
      assert sentence =~ expected, label
      assert String.valid?(sentence) and not (sentence =~ "\n"), label
    end

    # The good archive is installed by the same run.
    assert {:ok, [], ["epmd_nif.so"]} = outcomes["good"]
    assert File.ls!(Path.join(folder, "cache")) == [@archive]
  end

  test "a library is taken from the cache, and what is wrong there is fetched again", %{folder: folder} do
    good = archive([{@name, library()}, {"NOTICE", "thanks"}])
    checksums = checksums(folder, good)
    File.write!(Path.join(folder, @archive), good)
    cache = Path.join(folder, "cache")
    read = fn -> Prebuilt.read("file://#{folder}", @version, @triple, cache, checksums) end

    assert {:ok, %{library: library, notice: "thanks"}} = read.()
    assert library == library()
    assert File.read!(Path.join(cache, @archive)) == good

    File.write!(Path.join(cache, @archive), "half of it")
    assert {:ok, _} = read.()
    File.rm!(Path.join(folder, @archive))
    assert {:ok, _} = read.()
    File.write!(Path.join(cache, @archive), "half of it")
    assert {:build, sentence} = read.()
    assert sentence =~ "no such file"
  end

  test "where none can be had it is built, and the reason is told", %{folder: folder} do
    checksums = checksums(folder, "")
    read = fn url, triple -> Prebuilt.read(url, @version, triple, Path.join(folder, "cache"), checksums) end

    assert {:build, sentence} = read.("file://#{folder}", "s390x-unknown-linux-gnu")
    assert sentence =~ "there is no libepmd_nif-v#{@version}-nif-2.15-s390x-unknown-linux-gnu.so.tar.gz"
    assert {:build, sentence} = read.("http://127.0.0.1:#{Support.Vm.free_port()}", @triple)
    assert sentence =~ "cannot be read: :econnrefused"

    # An invalid setting is an error: it does not fall back to building.
    for url <- ["ftp://127.0.0.1", "127.0.0.1/there", "file://there", ~c"http://127.0.0.1"] do
      assert {:error, sentence} = read.(url, @triple)
      assert sentence =~ "must begin with https://, http:// or file:///, and is #{inspect(url)}"
    end

    assert {:build, sentence} = Prebuilt.read("file://#{folder}", @version, @triple, folder, Path.join(folder, "none"))
    assert sentence =~ "as in every checkout that is no release"
    File.write!(checksums, "%{")
    assert {:error, sentence} = read.("file://#{folder}", @triple)
    assert sentence =~ "must be a map of names to sums"
  end

  @tag capture_log: true
  test "a web server is asked, also through a proxy, and trusted when its certificate is right", %{folder: folder} do
    File.write!(Path.join(folder, "library"), "contents")

    http = serve(folder, :ip_comm)
    assert download("http://127.0.0.1:#{http}/library", %{}) == {:ok, "contents"}
    assert {:error, sentence} = download("http://127.0.0.1:#{http}/other", %{})
    assert sentence == "http://127.0.0.1:#{http}/other was answered with status 404"

    {tls, authority} = certificates(folder)
    https = serve(folder, {:ssl, tls})
    assert {:error, sentence} = download("https://localhost:#{https}/library", %{})
    assert sentence =~ "Unknown CA"
    assert download("https://localhost:#{https}/library", %{"HEX_CACERTS_PATH" => authority}) == {:ok, "contents"}
    # The certificate is for localhost only.
    assert {:error, sentence} = download("https://127.0.0.1:#{https}/library", %{"HEX_CACERTS_PATH" => authority})
    assert sentence =~ "hostname_check_failed"

    # A request through a proxy has the whole URL in its first line. No other server knows that host.
    proxy = %{"http_proxy" => "http://me:secret@127.0.0.1:#{relay(self())}"}
    assert download("http://nowhere.invalid/library", proxy) == {:ok, "relayed"}
    assert_received {:relayed, request}
    assert request =~ "GET http://nowhere.invalid/library HTTP"
    assert request =~ ~r/proxy-authorization: Basic #{Base.encode64("me:secret")}/i

    assert {:ok, "contents"} = download("http://127.0.0.1:#{http}/library", Map.put(proxy, "NO_PROXY", "127.0.0.1"))

    # One that is encrypted only passes on what both ends say.
    tunnel = %{"HTTPS_PROXY" => "127.0.0.1:#{tunnel(self())}", "HEX_CACERTS_PATH" => authority}
    assert download("https://localhost:#{https}/library", tunnel) == {:ok, "contents"}
    assert_received {:tunnelled, "CONNECT localhost:" <> _}
    assert {:error, sentence} = download("https://127.0.0.1:#{https}/library", tunnel)
    assert sentence =~ "hostname_check_failed"
    refused = Map.put(tunnel, "HTTPS_PROXY", "127.0.0.1:#{http}")
    assert {:error, sentence} = download("https://localhost:#{https}/library", refused)
    assert sentence =~ "cannot be read: the proxy answers with status"
  end

  test "the contents are what the server says, in each form that HTTP has" do
    for {answer, expected} <- [
          {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more", {:ok, "hello"}},
          {"HTTP/1.0 200\r\n\r\nhello", {:ok, "hello"}},
          {chunked("5;name=value\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n"), {:ok, "hello!"}},
          {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", {:ok, ""}}
        ] do
      assert download(web(Attacker.each_byte(answer)), %{}) == expected
      assert download(web([answer]), %{}) == expected
    end

    there = web(["HTTP/1.1 200 OK\r\n\r\nthere"])
    assert download(web([redirect(there)]), %{}) == {:ok, "there"}

    relative = fn
      "GET /library " <> _ -> [redirect("/moved?a=b")]
      "GET /moved?a=b " <> _ -> ["HTTP/1.1 200 OK\r\n\r\nmoved"]
    end

    assert download(web(relative), %{}) == {:ok, "moved"}
  end

  test "a server that lies ends neither time nor memory", %{folder: folder} do
    head = "HTTP/1.1 200 OK\r\n"
    too_long = "is longer than any library, more than 64 MiB in all tries"

    mebibyte = 1024 * 1024
    endless = Attacker.endless(head <> "\r\n")

    for {lie, sentence} <- [
          {endless, too_long},
          {Attacker.endless(head <> "Content-Length: 99999999999\r\n\r\n"), too_long},
          {Attacker.endless(chunked("fffffffffff\r\n")), too_long},
          {Attacker.endless(chunked(""), :binary.copy("1\r\nx\r\n", 10_000)), too_long},
          # Half of what is allowed, and then the end: the tries count together.
          {[head, "Content-Length: 99999999\r\n\r\n", :binary.copy("x", 3 * mebibyte)], too_long},
          {Attacker.endless("HTTP/1.1 500 Oops\r\n\r\n"), "was answered with status 500"},
          {Attacker.endless("HTTP/1.1 404 Not Found\r\n\r\n"), "was answered with status 404"},
          {Attacker.endless(head <> "X: ", "x"), "cannot be read: what answers does not speak HTTP"},
          {Attacker.endless(chunked("5"), "5"), "cannot be read: what answers does not speak HTTP"},
          {[chunked("-5\r\n")], "cannot be read: what answers does not speak HTTP"},
          {[head, "Content-Length: -1\r\n\r\n"], "cannot be read: what answers does not speak HTTP"},
          {["220 mail.example ESMTP\r\n\r\n"], "cannot be read: what answers does not speak HTTP"},
          {[], "cannot be read: :closed"},
          {[head <> "Content-Length: 9\r\n\r\nshort"], "cannot be read: :closed"},
          {[redirect("file:///etc/passwd")], "cannot be read: it is redirected to what is no address for it"},
          {[redirect("http://a b/")], "cannot be read: it is redirected to what is no address for it"},
          {[redirect("")], "cannot be read: it is redirected to what is no address for it"},
          {[redirect("/again")], "cannot be read: it is redirected more than 5 times"}
        ] do
      # Once the limit that holds without a test.
      for {mebibytes, limits} <- [{8, [bytes: 8 * mebibyte]}] ++ if(lie == endless, do: [{64, []}], else: []) do
        sent = :counters.new(1, [])
        url = web(lie, sent: sent)

        assert {:error, text} = download(url, %{}, limits)
        assert text == "#{url} #{sentence}"
        # With what the sockets of each try hold.
        assert :counters.get(sent, 1) <= (mebibytes + 3 * 16) * mebibyte
      end
    end

    for lie <- [[:stay], Attacker.drip(head <> "\r\n" <> String.duplicate("x", 10_000), 50)] do
      url = web(lie)
      assert download(url, %{}, time: 300) == {:error, "#{url} cannot be read: no answer in time"}
    end

    assert {:error, text} = download("file:///dev/zero", %{}, bytes: 1_000_000)
    assert text =~ "is longer than any library"

    # Then it is built, and nothing is left behind. What another user has put into the cache is not read whole.
    good = archive([{@name, library()}])
    checksums = checksums(folder, good)
    cache = Path.join(folder, "cache")
    File.mkdir_p!(cache)
    {_, 0} = System.cmd("truncate", ["--size", "100G", Path.join(cache, @archive)])
    url = "http://127.0.0.1:#{Attacker.answers(Attacker.endless(head <> "\r\n"))}"
    assert {:build, text} = ends(fn -> Prebuilt.read(url, @version, @triple, cache, checksums) end)
    assert text =~ "is longer than any library"
    assert Path.wildcard(Path.join(Mix.Project.build_path(), "*.tar.gz.*")) == []
  end

  test "the target is what rustc calls this VM's machine, or what the environment names" do
    for {architecture, triple} <- [
          {"x86_64-pc-linux-gnu", "x86_64-unknown-linux-gnu"},
          {"x86_64-redhat-linux-gnu", "x86_64-unknown-linux-gnu"},
          {"x86_64-slackware-linux", "x86_64-unknown-linux-gnu"},
          {"s390x-linux-gnu", "s390x-unknown-linux-gnu"},
          {"x86_64-alpine-linux-musl", "x86_64-unknown-linux-musl"},
          {"aarch64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"},
          {"riscv64-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu"},
          {"aarch64-apple-darwin23.1.0", "aarch64-apple-darwin"},
          {"arm-apple-darwin22.0", "aarch64-apple-darwin"},
          {"amd64-portbld-freebsd14.1", "x86_64-unknown-freebsd"}
        ] do
      assert Target.find(%{}, architecture, fn -> "" end) == {:vm, triple}
    end

    # OTP has one name for ARMv6 and ARMv7, but code for ARMv7 does not run on ARMv6.
    for {machine, triple} <- [
          {"armv7l", "armv7-unknown-linux-gnueabihf"},
          {"aarch64", "armv7-unknown-linux-gnueabihf"},
          {"armv6l", "arm-unknown-linux-gnueabihf"},
          {"", "arm-unknown-linux-gnueabihf"}
        ] do
      assert Target.find(%{}, "arm-unknown-linux-gnueabihf", fn -> machine end) == {:vm, triple}
    end

    nerves = %{
      "TARGET_ARCH" => "arm",
      "TARGET_OS" => "linux",
      "TARGET_ABI" => "gnueabihf",
      "TARGET_CPU" => "cortex_a72"
    }

    for {environment, found} <- [
          {%{"CARGO_BUILD_TARGET" => ""}, {:vm, @triple}},
          {%{"CARGO_BUILD_TARGET" => "aarch64-unknown-linux-musl"}, {:named, "aarch64-unknown-linux-musl"}},
          {nerves, {:named, "armv7-unknown-linux-gnueabihf"}},
          {%{nerves | "TARGET_CPU" => "arm1176jzf_s"}, {:named, "arm-unknown-linux-gnueabihf"}},
          {%{"TARGET_ARCH" => "x86_64", "TARGET_ABI" => "musl"}, {:named, "x86_64-unknown-linux-musl"}},
          {%{"TARGET_ARCH" => "x86_64", "TARGET_OS" => "linux", "TARGET_ABI" => "gnu"}, {:vm, @triple}}
        ] do
      assert Target.find(environment, "x86_64-pc-linux-gnu", fn -> "x86_64" end) == found
    end
  end

  test "the linker is the one that is named, or that of Nerves, or that of Debian" do
    armv7 = "armv7-unknown-linux-gnueabihf"
    variable = "CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER"
    everywhere = fn program -> "/bin/" <> Path.basename(program) end
    nowhere = fn _ -> nil end

    nerves = %{"TARGET_ARCH" => "arm", "CC" => "/nerves/arm-gcc"}
    assert Target.linker(armv7, nerves, everywhere) == [{variable, "/bin/arm-gcc"}]
    assert Target.linker(armv7, Map.put(nerves, variable, "mine"), everywhere) == []
    # Unless a cross-compilation environment is set up, CC is the compiler for this machine.
    assert Target.linker(armv7, %{"CC" => "clang"}, everywhere) == [{variable, "/bin/arm-linux-gnueabihf-gcc"}]
    assert Target.linker(armv7, %{"CC" => "clang"}, nowhere) == []
  end

  test "the library is found where cargo's messages say, and none is a fault" do
    crate =
      ~S({"reason":"compiler-artifact","target":{"kind":["cdylib"],"crate_types":["cdylib"],"name":"epmd_nif"},) <>
        ~S("profile":{},"filenames":["/a \"b\"/ü/libepmd_nif.so"],"executable":null,"fresh":true})

    other =
      ~S({"reason":"compiler-artifact","target":{"kind":["lib"],"name":"epmd_core"},"filenames":["/x.so"],"executable":null})

    finished = ~S({"reason":"build-finished","success":true})

    assert Cargo.library(Enum.join([other, crate, finished], "\n")) == {:ok, ~S(/a "b"/ü/libepmd_nif.so)}
    assert {:error, sentence} = Cargo.library(Enum.join([other, finished], "\n"))
    assert sentence =~ "made no library of epmd_nif"
  end

  defp web(answer, options \\ []), do: "http://127.0.0.1:#{Attacker.answers(answer, options)}/library"
  defp chunked(chunks), do: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" <> chunks
  defp redirect(location), do: "HTTP/1.1 302 Found\r\nLocation: #{location}\r\n\r\n"

  # What a function returns that must end by itself.
  defp ends(function), do: function |> Task.async() |> Task.await(60_000)

  defp download(url, environment, limits \\ []) do
    path = Path.join(Support.Folder.new("download"), "file")
    with :ok <- ends(fn -> Download.save(url, path, environment, limits) end), do: File.read(path)
  end

  # Runs a copy of the Mix compiler on each archive; returns its result, its messages and the installed files.
  defp compile(folder, cases) do
    package = Path.join(folder, "package")
    File.mkdir_p!(Path.join(package, "native"))

    for path <- ~w(mix.exs Cargo.toml native/mix),
        do: File.cp_r!(Path.join(@repository, path), Path.join(package, path))

    for {label, contents, sum} <- cases do
      File.mkdir_p!(Path.join([folder, "at", label]))
      File.write!(Path.join([folder, "at", label, @archive]), contents)
      checksums(Path.join([folder, "at", label]), contents, sum)
    end

    script = Path.join(folder, "script.exs")

    File.write!(script, ~S"""
    Mix.shell(Mix.Shell.Process)
    [folder] = System.argv()

    outcomes =
      for label <- File.ls!(Path.join(folder, "at")), into: %{} do
        at = Path.join([folder, "at", label])
        File.rm_rf!(Path.join(Mix.Project.app_path(), "priv"))
        for file <- Path.wildcard(Path.join(at, "checksum-*")), do: File.cp!(file, Path.basename(file))
        System.put_env("EMBEDDED_EPMD_BASE_URL", "file://" <> URI.encode(at))
        {status, _} = Mix.Task.rerun("compile.embedded_epmd_native")
        said = Stream.repeatedly(fn -> receive do {:mix_shell, kind, [text]} -> {kind, text} after 0 -> nil end end)
        errors = for {:error, text} <- Enum.take_while(said, & &1), do: text
        installed = Path.wildcard(Path.join([Mix.Project.app_path(), "priv/native/*"]))
        {label, {status, errors, Enum.map(installed, &Path.basename/1)}}
      end

    File.write!(Path.join(folder, "outcomes"), :erlang.term_to_binary(outcomes))
    """)

    environment = [
      {"MIX_ENV", "dev"},
      {"MIX_BUILD_PATH", Path.join(folder, "build")},
      {"EMBEDDED_EPMD_NATIVE", nil},
      {"RUSTLER_PRECOMPILED_GLOBAL_CACHE_PATH", Path.join(folder, "cache")},
      {"CARGO_BUILD_TARGET", @triple}
    ]

    arguments = ["run", "--no-compile", "--no-start", script, folder]
    {output, status} = System.cmd("mix", arguments, cd: package, env: environment, stderr_to_stdout: true)
    assert status == 0, output
    folder |> Path.join("outcomes") |> File.read!() |> :erlang.binary_to_term()
  end

  defp checksums(folder, contents, sum \\ :right) do
    value =
      case sum do
        :right -> "sha256:" <> Base.encode16(:crypto.hash(:sha256, contents), case: :lower)
        :none -> "md5:1"
        _ -> "sha256:" <> String.duplicate("0", 64)
      end

    path = Path.join(folder, Prebuilt.checksums())
    File.write!(path, inspect(%{@archive => value}))
    path
  end

  # The smallest file that counts as a library for x86_64: an ELF header, and the name of its libc.
  defp library(libc \\ "libc.so.6") do
    body = <<0, libc::binary, 0, :crypto.hash(:sha256, "more")::binary, :crypto.hash(:sha512, "more")::binary>>

    <<127, "ELF", 2, 1, 1, 0::72, 3::little-16, 62::little-16, 1::little-32, 0::128, 64 + byte_size(body)::little-64,
      0::32, 64::little-16, 0::32, 64::little-16, 0::little-16, 0::16, body::binary>>
  end

  defp archive(files) do
    path = Path.join(Support.Folder.new("archive"), "tar.gz")
    {:ok, tar} = :erl_tar.open(path, [:write, :compressed])
    for {name, contents} <- files, do: :ok = :erl_tar.add(tar, contents, String.to_charlist(name), [])
    :ok = :erl_tar.close(tar)
    File.read!(path)
  end

  defp link do
    folder = Support.Folder.new("archive")
    File.ln_s!("/etc/passwd", Path.join(folder, @name))
    {contents, 0} = System.cmd("tar", ["-cz", "-C", folder, @name])
    contents
  end

  defp corrupt(archive) do
    half = div(byte_size(archive), 2)

    {before, <<byte, rest::binary>>} =
      {binary_part(archive, 0, half), binary_part(archive, half, byte_size(archive) - half)}

    before <> <<Bitwise.bxor(byte, 0xFF)>> <> rest
  end

  defp serve(folder, socket) do
    {:ok, _} = Application.ensure_all_started(:inets)
    root = String.to_charlist(folder)
    modules = [:mod_get]

    options = [
      port: 0,
      bind_address: {127, 0, 0, 1},
      server_name: ~c"localhost",
      server_root: root,
      document_root: root
    ]

    {:ok, server} = :inets.start(:httpd, options ++ [modules: modules, socket_type: socket])
    on_exit(fn -> :inets.stop(:httpd, server) end)
    :httpd.info(server)[:port]
  end

  defp certificates(folder) do
    {:ok, _} = Application.ensure_all_started(:ssl)
    key = [key: {:rsa, 2048, 65_537}]
    name = {:Extension, {2, 5, 29, 17}, false, [dNSName: ~c"localhost"]}
    chain = %{root: key, intermediates: [], peer: [{:extensions, [name]} | key]}

    %{server_config: server, client_config: client} =
      :public_key.pkix_test_data(%{server_chain: chain, client_chain: chain})

    authority = Path.join(folder, "authority.pem")
    entries = for certificate <- client[:cacerts], do: {:Certificate, certificate, :not_encrypted}
    File.write!(authority, :public_key.pem_encode(entries))
    {Keyword.take(server, [:cert, :key]), authority}
  end

  # Answers one request, and sends its text to the test.
  defp relay(test) do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(listener)

    spawn_link(fn ->
      {:ok, socket} = :gen_tcp.accept(listener)
      {:ok, request} = :gen_tcp.recv(socket, 0)
      send(test, {:relayed, request})
      :ok = :gen_tcp.send(socket, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nrelayed")
      :gen_tcp.close(socket)
    end)

    port
  end

  # A proxy that connects to what it is asked for, and sends the request to the test.
  defp tunnel(test) do
    {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}])
    {:ok, port} = :inet.port(listener)
    spawn_link(fn -> tunnel(test, listener) end)
    port
  end

  defp tunnel(test, listener) do
    {:ok, near} = :gen_tcp.accept(listener)
    {:ok, request} = :gen_tcp.recv(near, 0)
    send(test, {:tunnelled, request})
    [_, port] = Regex.run(~r/:(\d+) HTTP/, request)
    {:ok, far} = :gen_tcp.connect({127, 0, 0, 1}, String.to_integer(port), [:binary, active: false])
    :ok = :gen_tcp.send(near, "HTTP/1.1 200 Connection established\r\n\r\n")
    for {from, to} <- [{near, far}, {far, near}], do: spawn_link(fn -> pass(from, to) end)
    tunnel(test, listener)
  end

  defp pass(from, to) do
    with {:ok, bytes} <- :gen_tcp.recv(from, 0), :ok <- :gen_tcp.send(to, bytes), do: pass(from, to)
    :gen_tcp.shutdown(to, :write)
  end
end
