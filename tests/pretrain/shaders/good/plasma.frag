#ifdef GL_ES
precision mediump float;
#endif
#extension GL_OES_standard_derivatives : enable

uniform float time;
uniform vec2 mouse;
uniform vec2 resolution;

void main( void ) {
    vec2 p = gl_FragCoord.xy / resolution.xy * 4.0 + mouse;
    float v = sin(p.x * 3.0 + time) + sin(p.y * 2.0 - time) + sin((p.x + p.y) * 2.0) + sin(length(p - 2.0) * 5.0);
    gl_FragColor = vec4(0.5 + 0.5 * cos(v + vec3(0.0, 1.1, 2.2)), 1.0);
}
