defmodule EmbeddedEpmd.PrebuiltTest do
  use ExUnit.Case, async: true

  alias EmbeddedEpmd.Build.{Cargo, Download, Prebuilt, Target}

  @moduletag timeout: 300_000

  @repository Path.expand("..", __DIR__)
  @triple "x86_64-unknown-linux-gnu"
  @version Mix.Project.config()[:version]
  @name "libepmd_nif-v#{@version}-nif-2.15-#{@triple}.so"
  @archive @name <> ".tar.gz"

  setup do
    %{folder: EmbeddedEpmd.Folder.new("prebuilt")}
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
    assert {:build, sentence} = read.("http://127.0.0.1:#{EmbeddedEpmd.Vm.free_port()}", @triple)
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
    assert Download.read("http://127.0.0.1:#{http}/library", %{}) == {:ok, "contents"}
    assert {:error, sentence} = Download.read("http://127.0.0.1:#{http}/other", %{})
    assert sentence == "http://127.0.0.1:#{http}/other was answered with status 404"

    {tls, authority} = certificates(folder)
    https = serve(folder, {:ssl, tls})
    assert {:error, sentence} = Download.read("https://localhost:#{https}/library", %{})
    assert sentence =~ "Unknown CA"
    assert Download.read("https://localhost:#{https}/library", %{"HEX_CACERTS_PATH" => authority}) == {:ok, "contents"}
    # The certificate is for localhost only.
    assert {:error, sentence} = Download.read("https://127.0.0.1:#{https}/library", %{"HEX_CACERTS_PATH" => authority})
    assert sentence =~ "hostname_check_failed"

    # A request through a proxy has the whole URL in its first line. No other server knows that host.
    proxy = %{"http_proxy" => "http://me:secret@127.0.0.1:#{relay(self())}"}
    assert Download.read("http://nowhere.invalid/library", proxy) == {:ok, "relayed"}
    assert_received {:relayed, request}
    assert request =~ "GET http://nowhere.invalid/library HTTP"
    assert request =~ ~r/proxy-authorization: Basic #{Base.encode64("me:secret")}/i

    assert {:ok, "contents"} =
             Download.read("http://127.0.0.1:#{http}/library", Map.put(proxy, "NO_PROXY", "127.0.0.1"))
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
    path = Path.join(EmbeddedEpmd.Folder.new("archive"), "tar.gz")
    {:ok, tar} = :erl_tar.open(path, [:write, :compressed])
    for {name, contents} <- files, do: :ok = :erl_tar.add(tar, contents, String.to_charlist(name), [])
    :ok = :erl_tar.close(tar)
    File.read!(path)
  end

  defp link do
    folder = EmbeddedEpmd.Folder.new("archive")
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
end
